cimport cython

from hiddenstate_server.context cimport Context, ContextReader, Start
from hiddenstate_server.engine_metrics cimport RequestMetrics
from hiddenstate_server.results cimport Usage
from hiddenstate_server.scheduler cimport Scheduler
from hiddenstate_server.sequence cimport Predicting
from hiddenstate_server.sequence cimport Sequence as Computing
from hiddenstate_server.wire cimport PredictionWriter


cdef class PredictOptions:
    cdef public Py_ssize_t top_k
    cdef public str prefix
    cdef public bint return_state


cdef class Predictor:
    cdef RequestMetrics _counts
    cdef bytes _fingerprint
    cdef Py_ssize_t _max_top_k
    cdef object _name, _state_keys, _word_index, _words
    cdef frozenset _specials
    cdef public ContextReader _reader
    cdef Scheduler _scheduler
    cdef PredictionWriter _writer

    cpdef Predicting work_now(
        self, Context context, PredictOptions options, double deadline=*, bint is_bulk=*, held=*
    )
    cpdef bytes response(self, Predicting work)
    cdef _ranks(self, PredictOptions options)
    @cython.locals(tokens=tuple, work=Predicting, size=Py_ssize_t)
    cdef Predicting _work(
        self, Start start, PredictOptions options, ranks, double deadline, bint is_bulk, held
    )
    @cython.locals(start=Start)
    cdef Usage _conclude(self, Predicting work)
    cdef bytes _returned_state(self, Predicting work)


@cython.locals(queue_s=double)
cpdef Usage account(RequestMetrics counts, Computing work, Start start)
cpdef Usage usage(Computing work, Start start, double queue_s)
