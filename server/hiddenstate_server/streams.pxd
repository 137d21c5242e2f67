cimport cython

from hiddenstate_server.call_metrics cimport MethodMetrics
from hiddenstate_server.replies cimport Replies
from hiddenstate_server.tallies cimport Distribution
from hiddenstate_server.transit cimport Transit
from hiddenstate_server.wire cimport streamed


cdef class Arrived:
    cdef public object request, request_id, works
    cdef public Py_ssize_t weight
    cdef public double at, read_at


cpdef double deadline_of(Arrived arrived, double stream_deadline) except? -1


cdef class Lane:
    cdef public bint is_busy
    cdef public object waiting

    cpdef bint enter(self, Arrived arrived) except -1
    cpdef Arrived next(self)


cdef class Stream:
    cdef object _context, _loop, _method, _news, _reader, _room, _running
    cdef set _tasks
    cdef dict _refusals, _unanswered
    cdef Replies _replies
    cdef Transit _transit
    cdef Distribution _unread
    cdef MethodMetrics _series
    cdef Py_ssize_t _max_pending, _pending
    cdef bint _closed, _is_at_read
    cdef double _asked_at

    cpdef _take_in(self, Arrived arrived)
    cpdef _begin(self, Arrived arrived, Lane lane)
    cpdef _answered(self, Arrived arrived, Lane lane, answer)
    @cython.locals(reply=bytes)
    cdef _reply(self, Arrived arrived, answer)
    cdef tuple _error(self, answer)
