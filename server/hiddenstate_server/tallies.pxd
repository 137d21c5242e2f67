cdef class Tally:
    cdef public double value


cdef class Distribution:
    cdef tuple _bounds
    cdef public list counts
    cdef public double sum

    cpdef observe(self, double value)
