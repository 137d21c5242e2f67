cimport cython

from hiddenstate_server.admission cimport Admission
from hiddenstate_server.work cimport Work


cdef class Scheduler:
    cdef public Admission _admission
    cdef public object _idle, _dropped, _queue, _tracing, _step, _loop, _inbox, _turn, _parked, _spare, trial, name
    cdef public list _outbox, _running, _threads
    cdef public Py_ssize_t _arrivals, _held, _active, failures
    cdef public bint _draining

    @cython.locals(work=Work, now=double)
    cpdef submit(self, works)
    cpdef check(self, double deadline, bint is_bulk, Py_ssize_t size=*)
    cpdef refusal(self, double deadline, bint is_bulk, Py_ssize_t size=*)
    @cython.locals(work=Work)
    cpdef _tell(self, list news)
    @cython.locals(work=Work)
    cdef bint _receive(self) except -1
    @cython.locals(runners=Py_ssize_t)
    cdef Py_ssize_t _runners(self) except -1
    @cython.locals(work=Work, now=double, unwanted=Py_ssize_t)
    cdef _wanted(self, batch)
    @cython.locals(work=Work, started_at=double, finished_at=double, batch_s=double)
    cdef _compute(self, batch)
