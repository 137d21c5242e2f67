cimport cython

from hiddenstate_server.sequence cimport Sequence


cdef class Iteration:
    cdef object _heads, _recurrent, _runner
    cdef Py_ssize_t _vocab_size

    @cython.locals(sequence=Sequence, rows=Py_ssize_t, asked=Py_ssize_t, row=Py_ssize_t)
    cpdef list run(self, batch)
    @cython.locals(sequence=Sequence, chunk=Py_ssize_t, row=Py_ssize_t, size=Py_ssize_t)
    cdef _recur(self, list batch)
    @cython.locals(sequence=Sequence, rows=Py_ssize_t, k=Py_ssize_t, ones=Py_ssize_t, has_targets=cython.bint)
    cdef _ask(self, batch, list asks, outputs)
    @cython.locals(sequence=Sequence)
    cdef _ranks(self, batch, list asks)
