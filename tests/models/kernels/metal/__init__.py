"""The Metal kernels without a Mac: MLX's own generated source, compiled as C++ and run with simdgroups and barriers."""
