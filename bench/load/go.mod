module platform-kernel.io/bench/load

go 1.24
