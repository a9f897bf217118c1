package handover

import (
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// tellEvery is how often the service manager hears of us at least.
const tellEvery = 500 * time.Millisecond

// Manager is the service manager that has started this process, if it wants to be
// told how it is doing (sd_notify(3)). It is safe for concurrent use.
type Manager struct {
	log      *slog.Logger
	here     bool
	watchdog time.Duration // within which it has to hear of us; zero for whenever

	mu     sync.Mutex
	ready  bool // it was told
	status string
	failed bool
}

// FindManager returns the manager that the environment names. Where there is none,
// nothing is told to anybody.
func FindManager(log *slog.Logger) (*Manager, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, err
	}
	return &Manager{log: log, here: os.Getenv("NOTIFY_SOCKET") != "", watchdog: watchdog}, nil
}

// Every is how often it wants to be told; zero for never.
func (m *Manager) Every() time.Duration {
	switch {
	case !m.here:
		return 0
	case m.watchdog > 0:
		return min(m.watchdog/3, tellEvery)
	}
	return tellEvery
}

// Tell says that the process is alive, and what keeps it from serving; nothing when
// it is empty. What keeps it after it has served does not take that back.
func (m *Manager) Tell(unready string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	status := unready
	if status == "" {
		status = "serving"
	}
	var text string
	if unready == "" && !m.ready {
		m.ready = true
		text += daemon.SdNotifyReady + "\n"
	}
	if status != m.status {
		m.status = status
		text += "STATUS=" + oneLine(status) + "\n"
	}
	if m.watchdog > 0 {
		text += daemon.SdNotifyWatchdog + "\n"
	}
	m.send(text)
}

// Stopping says that the process will end.
func (m *Manager) Stopping() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.send(daemon.SdNotifyStopping + "\n")
}

func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	return string(b)
}

func (m *Manager) send(text string) {
	if text == "" || !m.here {
		return
	}
	_, err := daemon.SdNotify(false, text)
	if err != nil && !m.failed {
		m.log.Warn("service manager could not be told", "err", err)
	}
	m.failed = err != nil
}
