cimport cython

from hiddenstate_server.messages cimport read_is_bulk, read_truncate
from hiddenstate_server.sentence cimport Sentence
from hiddenstate_server.sentence_encoder cimport EncodingWork
from hiddenstate_server.streams cimport Arrived, Lane, deadline_of


cdef class EncodeRequests:
    cdef double _deadline
    cdef object _repository

    cpdef Py_ssize_t weight(self, request) except -1
    cpdef lane(self, request)
    @cython.locals(truncate=bint, is_bulk=bint, deadline=double)
    cpdef begin(self, Arrived arrived, Lane lane, answered)


@cython.locals(work=Sentence)
cdef _submit(EncodingWork request, model, Arrived arrived, answered)


cdef class _Asked:
    cdef Py_ssize_t _left
    cdef EncodingWork _request
    cdef object _model, _answered
    cdef Arrived _arrived

    @cython.locals(works=list, work=Sentence)
    cpdef told(self, bint over)
