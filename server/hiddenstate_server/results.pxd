cdef class Usage:
    cdef public Py_ssize_t tokens_computed, tokens_reused
    cdef public unsigned long long queue_time_us, compute_time_us
