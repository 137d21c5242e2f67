cimport cython

from hiddenstate_server.prefix_cache cimport Prefix, PrefixCache, after
from hiddenstate_server.state_token cimport State
from hiddenstate_server.tallies cimport Distribution


cdef class Context:
    cdef public str text
    cdef public object tokens
    cdef public bytes state

    cpdef bint is_long(self) except -1


cdef class HeldContext:
    cdef public State state


cdef class Start:
    cdef public tuple tokens
    cdef public State before
    cdef public Py_ssize_t known
    cdef public bytes state
    cdef public Prefix prefix
    cdef public list sums

    cpdef tuple to_compute(self)
    cpdef tokens_reused(self)
    cpdef num_tokens(self)
    cpdef State then(self, bytes state)


cdef class ContextReader:
    cdef public tuple _bos
    cdef public PrefixCache _cache
    cdef public bytes _fingerprint, _zero_state
    cdef public Py_ssize_t _max_context_tokens
    cdef public object _spec, _state_bounds, _state_keys, _tokenizer
    cdef public Distribution _tokenized

    @cython.locals(started_at=double)
    cpdef Start read_now(self, Context context, held=*, bint use_cache=*)
    cpdef remember(self, Start start, list states)
    @cython.locals(before=State, start=Start)
    cdef Start _start(self, tuple tokens, Context context, held, bint use_cache)
    cdef State _given(self, bytes token)
    @cython.locals(before=State)
    cdef _look_up(self, Start start)
    @cython.locals(started_at=double)
    cdef tuple _tokens(self, Context context)
    cdef _check_length(self, str text)
    @cython.locals(position=Py_ssize_t, vocab_size=Py_ssize_t, token_id=Py_ssize_t)
    cdef tuple _ids(self, tokens)
    cdef tuple _check(self, tuple tokens, str field)
