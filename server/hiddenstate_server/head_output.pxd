cdef class HeadOutput:
    cdef public object target_log_probs, top_ids, top_log_probs
    cdef list _ids
    cdef bytes _values
    cdef Py_ssize_t _row_bytes

    cpdef tuple row(self, Py_ssize_t row)
