package dataplane

// heapFloor is what a proxy allocates and never touches, so that it takes addresses and
// no memory. Of a few MiB, which is what most proxies have in use, Go would collect
// garbage a hundred times a second under load, for a tenth of all CPU. As it is, 32 MiB
// of it may gather, and half of what is in use, where GOGC is 50, as sallyport-proxy
// has it. GOMEMLIMIT counts it.
const heapFloor = 64 << 20
