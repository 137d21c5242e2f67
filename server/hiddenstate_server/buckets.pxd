from hiddenstate_server.work cimport Work


cdef class Buckets:
    cdef public Py_ssize_t count
    cdef dict _waiting

    cpdef put(self, size, Work work)
    cpdef list sizes(self)
    cpdef bint holds(self, size) except -1
    cpdef oldest(self, size)
    cpdef pop(self, size)


cdef class Priorities:
    cdef Buckets _bulk, _interactive
    cdef Py_ssize_t _passed_over

    cpdef put(self, size, Work work)
    cpdef tuple turn(self)
