package local

import "syscall"

// endWithParent has the kernel stop the child, as child.stop first does, when
// the thread that started it dies.
func endWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGINT
}
