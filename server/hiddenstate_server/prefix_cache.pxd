cimport cython


cdef class Prefix:
    cdef public Py_ssize_t model, length
    cdef public object sum


cdef class PrefixCache:
    cdef public Py_ssize_t budget_bytes, bytes, hits, misses, evictions
    cdef public object _numbers, _lengths, _offset, _states
    cdef public dict _models
    cdef public list _factors

    cpdef Prefix begin(self, model, origin=*)
    @cython.locals(end=Py_ssize_t)
    cpdef list sums(self, Prefix before, tokens)
    @cython.locals(count=Py_ssize_t)
    cpdef tuple longest(self, Prefix before, sums)
    @cython.locals(count=Py_ssize_t)
    cpdef store(self, Prefix before, sums, states)
    @cython.locals(size=Py_ssize_t)
    cdef _insert(self, Py_ssize_t model, Py_ssize_t length, key, state)
    @cython.locals(length=Py_ssize_t)
    cdef _remove(self, key, state)


cpdef Prefix after(Prefix before, sums)
cdef _key(Prefix before, Py_ssize_t count, sums)
cdef Py_ssize_t _model(key) except -1
cdef Py_ssize_t _length(key) except -1
