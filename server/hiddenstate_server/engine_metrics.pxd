from hiddenstate_server.tallies cimport Distribution, Tally


cdef class RequestMetrics:
    cdef public Distribution compute, queue, tokenize
    cdef public Tally tokens_computed, tokens_reused

    cpdef request_done(self, double queue_s, double compute_s, Py_ssize_t tokens_computed, Py_ssize_t tokens_reused)
