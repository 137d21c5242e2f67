from hiddenstate_server.prefix_cache cimport Prefix


cdef class State:
    cdef public bytes data
    cdef public object num_tokens
    cdef public Prefix prefix
