cimport cython

from hiddenstate_server.results cimport Usage

cdef list _SHORT
cdef bytes _RESPONSES, _REQUEST_ID, _RESPONSE, _ERROR, _STATE, _PREDICT_USAGE, _ENCODE_USAGE, _EMBEDDINGS, _COUNT
cdef bytes _TRUNCATED, _COMPUTED, _REUSED, _QUEUE, _COMPUTE

cpdef bytes varint(number)
cpdef bytes delimited(bytes before, bytes body)
cpdef bytes streamed(request_id, bytes response, bytes error=*)


cdef class PredictionWriter:
    cdef bytes _model
    cdef list _heads

    @cython.locals(rank=Py_ssize_t, token_id=Py_ssize_t, parts=list, head=bytes)
    cpdef bytes write(self, list ids, bytes log_probs, Py_ssize_t top_k, bytes state, Usage usage)


cdef class EncodingWriter:
    cdef bytes _model

    @cython.locals(values=bytes)
    cpdef bytes write(self, list vectors, truncated, Usage usage)


cdef bint _is_finite(bytes values, Py_ssize_t at) except -1
cdef bytes _usage(Usage usage)
