package local

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands etcd's log to log. A member on its own warns and errs at each
// start and stop, so all of that is for us alone; only what ends the process is
// an error, because nothing else will tell.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(zapBridge{log})
}

// zapBridge is a zapcore.Core.
type zapBridge struct{ log *slog.Logger }

func slogLevel(l zapcore.Level) slog.Level {
	if l > zapcore.ErrorLevel {
		return slog.LevelError
	}
	return slog.LevelDebug
}

func (b zapBridge) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && b.log.Enabled(context.Background(), slogLevel(l))
}

func (b zapBridge) With(fields []zapcore.Field) zapcore.Core {
	return zapBridge{b.log.With(attrs(fields)...)}
}

func (b zapBridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b zapBridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b.log.With("etcd", e.Message).Log(context.Background(), slogLevel(e.Level), "etcd reported", attrs(fields)...)
	return nil
}

func (b zapBridge) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return []any{slog.Any("fields", enc.Fields)}
}
