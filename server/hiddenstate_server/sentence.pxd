cimport cython

from hiddenstate_server.work cimport Work


cdef class Sentence(Work):
    cdef public list tokens
    cdef public bytes vector


cdef class EncodeStep:
    cdef object _counts, _runner

    @cython.locals(started_at=double, sentence=Sentence, row=Py_ssize_t, size=Py_ssize_t, useful=Py_ssize_t, data=bytes)
    cpdef run(self, batch)
