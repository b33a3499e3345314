package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// boundedLog is the log file as the shim writes it. What exceeds its limit is dropped, after a line that says so. Its
// writes never fail, because a full disk must not stop the command.
type boundedLog struct {
	mu    sync.Mutex
	file  *os.File
	limit int64
	size  int64
	lost  error
	cut   bool
	last  byte // the last byte written
}

// newLog opens the log of dir under a temporary name, because log means to runners that the command was taken.
func newLog(dir string) (*boundedLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, logFile+".tmp"), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &boundedLog{file: f, limit: DefaultLogLimit, last: '\n'}, nil
}

func publishLog(dir string) error {
	return os.Rename(filepath.Join(dir, logFile+".tmp"), filepath.Join(dir, logFile))
}

// limitTo sets how many bytes are kept; 0 is the default.
func (l *boundedLog) limitTo(limit int64) {
	if limit > 0 {
		l.limit = limit
	}
}

// Write implements [io.Writer].
func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := p[:min(int64(len(p)), l.limit-l.size)]
	l.size += int64(len(keep))
	l.append(keep)
	if len(keep) < len(p) && !l.cut {
		l.cut = true
		l.line(fmt.Sprintf("the output is longer than %d bytes; the rest of it is not kept", l.limit))
	}
	return len(p), nil
}

// say writes a line of the shim's own.
func (l *boundedLog) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line(fmt.Sprintf(format, args...))
}

func (l *boundedLog) line(text string) {
	text = "slipway: " + text + "\n"
	if l.last != '\n' {
		text = "\n" + text
	}
	l.append([]byte(text))
}

func (l *boundedLog) append(p []byte) {
	if len(p) == 0 || l.lost != nil {
		return
	}
	l.last = p[len(p)-1]
	if _, err := l.file.Write(p); err != nil {
		l.lost = err
	}
}

// close closes the file and says why output was lost, if it was.
func (l *boundedLog) close() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Close(); l.lost == nil {
		l.lost = err
	}
	if l.lost == nil {
		return ""
	}
	return l.lost.Error()
}
