package redis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Bounds of an answer.
const (
	maxLine  = 512
	maxText  = 4096
	maxItems = 16
)

var errProtocol = errors.New("not an answer of Redis")

// Failure is what the server says is wrong.
type Failure string

// Error implements error.
func (f Failure) Error() string { return string(f) }

// command appends a command as the server reads it (RESP2).
func command(b []byte, args ...string) []byte {
	b = append(strconv.AppendInt(append(b, '*'), int64(len(args)), 10), "\r\n"...)
	for _, a := range args {
		b = append(strconv.AppendInt(append(b, '$'), int64(len(a)), 10), "\r\n"...)
		b = append(append(b, a...), "\r\n"...)
	}
	return b
}

// answer reads an answer: texts, of a number too, one or several. What the server
// says is wrong is a Failure.
func answer(r *bufio.Reader) ([]string, error) {
	kind, line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case '+', ':':
		return []string{line}, nil
	case '-':
		return nil, Failure(line)
	case '$':
		text, err := readText(r, line)
		return []string{text}, err
	case '*':
		n, err := strconv.Atoi(line)
		if err != nil || n < 0 || n > maxItems {
			return nil, fmt.Errorf("%w: a list of %.20q", errProtocol, line)
		}
		return items(r, n)
	}
	return nil, fmt.Errorf("%w: it begins with %q", errProtocol, kind)
}

func items(r *bufio.Reader, n int) ([]string, error) {
	all := make([]string, 0, n)
	for range n {
		kind, line, err := readLine(r)
		switch {
		case err != nil:
			return nil, err
		case kind == '$':
			if line, err = readText(r, line); err != nil {
				return nil, err
			}
		case kind != '+' && kind != ':':
			return nil, fmt.Errorf("%w: a list with %q in it", errProtocol, kind)
		}
		all = append(all, line)
	}
	return all, nil
}

func readLine(r *bufio.Reader) (kind byte, line string, err error) {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(b) < 3 || len(b) > maxLine || b[len(b)-2] != '\r' {
		return 0, "", fmt.Errorf("%w: a line of %d bytes", errProtocol, len(b))
	}
	return b[0], string(b[1 : len(b)-2]), nil
}

func readText(r *bufio.Reader, length string) (string, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > maxText {
		return "", fmt.Errorf("%w: a text of %.20q bytes", errProtocol, length)
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
