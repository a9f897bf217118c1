// Command sallyport is what operators use: it applies resources, shows the
// fleet and waits for proof of what proxies enforce.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if _, told := errors.AsType[*toldError](err); !told {
		fmt.Fprintln(os.Stderr, "sallyport:", explain(err))
	}
	os.Exit(1)
}

// toldError is an error that was printed already.
type toldError struct{ error }
