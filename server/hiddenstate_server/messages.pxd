from hiddenstate_server.context cimport Context
from hiddenstate_server.prediction cimport PredictOptions

cdef object _BULK

cpdef Context read_context(request)
cpdef PredictOptions read_predict_options(request)
cpdef bint read_is_bulk(request) except -1
cpdef bint read_truncate(request) except -1
