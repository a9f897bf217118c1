package redis_test

import (
	"bufio"
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/dataplane/limit/redis"
)

// Whatever a server sends is an answer within its bounds, or an error.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{"+OK\r\n", ":7\r\n", "-ERR no\r\n", "$3\r\nabc\r\n", "*2\r\n:1\r\n$2\r\n12\r\n", "*-1\r\n", "$-1\r\n", "*2\r\n:1\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, says string) {
		got, err := redis.Answer(bufio.NewReaderSize(strings.NewReader(says), redis.MaxText))
		if err == nil && (len(got) > redis.MaxItems || len(strings.Join(got, "")) > len(says)) {
			t.Errorf("%q is %q", says, got)
		}
		if failure := redis.Failure(""); errors.As(err, &failure) && !strings.HasPrefix(says, "-") {
			t.Errorf("%q is a failure: %v", says, err)
		}
	})
}
