package dataplane

// heapFloor is what a proxy allocates and never touches, so that it takes addresses and
// no memory. Go collects garbage when the heap has doubled; of a few MiB, which is what
// most proxies have in use, it would do so a hundred times a second under load, for a
// tenth of all CPU. In return there may be so much more garbage. GOMEMLIMIT counts it.
const heapFloor = 32 << 20
