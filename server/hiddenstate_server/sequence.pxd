from hiddenstate_server.context cimport Start
from hiddenstate_server.head_output cimport HeadOutput
from hiddenstate_server.work cimport Work


cdef class Sequence(Work):
    cdef public Py_ssize_t chunk, computed, k, length, position
    cdef public bint has_targets, keep_states
    cdef public bytes state
    cdef public object tokens, ranks
    cdef public list states

    cpdef Py_ssize_t remaining(self) except -1
    cpdef Py_ssize_t head_rows(self) except -1
    cpdef consume(self, bytes state)
    cpdef Py_ssize_t asks(self) except -1
    cpdef head_targets(self)
    cpdef bint receive(self, HeadOutput answer, Py_ssize_t row) except -1


cdef class Predicting(Sequence):
    cdef public Py_ssize_t top_k
    cdef public bint return_state
    cdef public Start start
    cdef public object held
    cdef public list top_ids
    cdef public bytes top_log_probs


cdef class Scoring(Sequence):
    cdef public Py_ssize_t scored
    cdef public object targets
    cdef public list log_probs


cdef class Generating(Sequence):
    cdef public Py_ssize_t chosen, eos_token_id, max_tokens
    cdef public bint keep_last
    cdef public object banned_ids, finish_reason, last, news, sampler, stop_ids
