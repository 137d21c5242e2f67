cimport cython


cdef class WordMemo:
    cdef object _ask
    cdef list _before, _behind
    cdef dict _older, _recent

    @cython.locals(ids=list, recent=dict)
    cpdef list encode(self, str text)
    cdef tuple _find(self, word)
