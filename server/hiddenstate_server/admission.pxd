cimport cython


cdef class Admission:
    cdef public Py_ssize_t waiting_works, waiting_tokens
    cdef public Py_ssize_t _full_batch, _max_waiting_tokens, _waiting_interactive
    cdef public double _batch_s, _busy_since, _seconds, _seen_at, _tokens
    cdef public bint _in_turns
    cdef public dict _refusals, _told

    @cython.locals(size=Py_ssize_t, deadline=double, is_bulk=bint)
    cpdef admit(self, works, double now)
    @cython.locals(ahead=double)
    cpdef check(self, double deadline, double now, bint is_bulk, Py_ssize_t size=*)
    @cython.locals(ahead=double, left=double)
    cpdef refusal(self, double deadline, double now, bint is_bulk, Py_ssize_t size=*)
    @cython.locals(first=Py_ssize_t, ahead=double)
    cdef double _in_vain(self, double deadline, double now, bint is_bulk, Py_ssize_t size) except -1
    @cython.locals(done=Py_ssize_t, batch_s=double)
    cpdef release(self, works, double now)
    cpdef double wait_s(self, Py_ssize_t tokens) except -1
    @cython.locals(passed=double, fades=double)
    cdef _observe(self, Py_ssize_t size, double batch_s, double now)
    cdef _slow(self, double ahead, double left)
    cdef _refused(self, str message, retry_after_s, reason)


cdef _coarse(double number)
