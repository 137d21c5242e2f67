cdef class Work:
    cdef public Py_ssize_t size, arrival
    cdef public double deadline, submitted_at, finished_at, compute_s, batch_s
    cdef public bint is_bulk, abandoned, over, dropped
    cdef public object told, error, trace

    cpdef drop(self, error)
    cpdef tell_nobody(self)
    cpdef double queue_s(self) except -1
