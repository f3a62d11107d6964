"""Operations: status, drain, fence, snapshot and repair."""
