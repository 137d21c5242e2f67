cimport cython


cdef class Transit:
    cdef double _before, _least, _since

    @cython.locals(took=double, passed=double, waited=double)
    cpdef double waited_s(self, double sent_at_us, double now) except -1
