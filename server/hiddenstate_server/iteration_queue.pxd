cimport cython

from hiddenstate_server.buckets cimport Buckets, Priorities
from hiddenstate_server.sequence cimport Sequence


cdef class IterationQueue:
    cdef Py_ssize_t _last_size, _max_batch, _max_chunk, _max_head_rows, _max_tokens
    cdef object _releases
    cdef Priorities _waiting

    cpdef put(self, Sequence work)
    @cython.locals(first=Buckets, second=Buckets, size=Py_ssize_t, part=Py_ssize_t, limit=Py_ssize_t)
    cpdef list take(self, Py_ssize_t sharers)
    @cython.locals(buckets=Buckets, head_rows=Py_ssize_t, oldest=Sequence)
    cdef tuple _batch(self, Buckets first, Buckets second, Py_ssize_t size, Py_ssize_t rows)
    cdef Py_ssize_t _next_size(self, Buckets waiting) except -1
    cdef Py_ssize_t _chunk(self, Py_ssize_t remaining)
