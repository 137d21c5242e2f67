cimport cython

from hiddenstate_server.context cimport Context
from hiddenstate_server.messages cimport read_context, read_is_bulk, read_predict_options
from hiddenstate_server.prediction cimport PredictOptions, Predictor
from hiddenstate_server.sequence cimport Predicting
from hiddenstate_server.state_token cimport State
from hiddenstate_server.streams cimport Arrived, Lane, deadline_of
from hiddenstate_server.tallies cimport Tally


cdef class StreamContext(Lane):
    cdef public State state
    cdef public object model


cdef class PredictRequests:
    cdef dict _contexts
    cdef Tally _counted
    cdef double _deadline
    cdef Py_ssize_t _max_contexts
    cdef object _repository

    cpdef Py_ssize_t weight(self, request) except -1
    @cython.locals(context=StreamContext)
    cpdef lane(self, request)
    cpdef begin(self, Arrived arrived, StreamContext context, answered)
    @cython.locals(sent=Context, options=PredictOptions, is_bulk=bint, deadline=double, predictor=Predictor)
    cdef _begin(self, Arrived arrived, StreamContext context, answered)
    cdef _submit(self, Predicting work, model, Arrived arrived, StreamContext context, answered)
    cdef _model(self, request, StreamContext context)
    cpdef forget_if_never_begun(self, context_id, StreamContext context)


cdef class _Asked:
    cdef object _answered, _model
    cdef PredictRequests _requests
    cdef Predicting _work
    cdef Arrived _arrived
    cdef StreamContext _context

    @cython.locals(predictor=Predictor)
    cpdef told(self, bint over)
