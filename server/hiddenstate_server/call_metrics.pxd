from hiddenstate_server.tallies cimport Distribution, Tally


cdef class MethodMetrics:
    cdef public object method
    cdef object _ended, _refused
    cdef Distribution _seconds
    cdef Tally _ok, _running

    cpdef begin(self)
    cpdef end(self, str code, double seconds)
