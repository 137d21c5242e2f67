cimport cython

from hiddenstate_server.sentence cimport Sentence


cdef class EncodingWork:
    cdef public list works
    cdef public Py_ssize_t truncated

    @cython.locals(work=Sentence)
    cpdef list vectors(self)
