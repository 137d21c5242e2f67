cimport cython


cdef class Outgoing:
    cdef public list parts
    cdef public Py_ssize_t size, weight


cdef class Replies:
    cdef object _waiting
    cdef Outgoing _last

    @cython.locals(outgoing=Outgoing)
    cpdef add(self, bytes reply, Py_ssize_t weight)
    @cython.locals(outgoing=Outgoing)
    cpdef take(self)
