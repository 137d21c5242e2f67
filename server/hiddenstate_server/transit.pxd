cimport cython


cdef class Transit:
    cdef double _before, _least, _since

    @cython.locals(took=double, passed=double, unread=double, waited=double)
    cpdef double unread_s(self, double sent_at_us, double asked_at, double now) except -1
