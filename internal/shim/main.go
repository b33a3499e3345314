package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signals that the runner sends to a shim.
const (
	// SignalStop asks the step to end: it is passed on to the process group of the command.
	SignalStop = syscall.SIGTERM
	// SignalKill ends the step at once: the shim kills all its processes and leaves exit as usual.
	SignalKill = syscall.SIGUSR1
)

// Main is the whole life of a shim: it waits for the command in dir, runs it to its end, and returns the code to exit
// with, which is that of the command. What goes wrong before there is a log is said on standard error.
//
// As the first process of a container it reaps what its descendants leave behind. When the command has ended, whatever
// it left running is killed.
func Main(dir string) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, SignalStop, SignalKill, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	// The steps' processes must not reach the shim's open files through /proc.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if os.Getpid() != 1 {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	code, err := run(dir, signals)
	if err != nil {
		fmt.Fprintln(os.Stderr, "slipway-shim:", err)
	}
	return code
}

// failure is the shim's exit code when it could not do its own part.
const failure = 125

func run(dir string, signals <-chan os.Signal) (int, error) {
	lock, err := takeLock(dir)
	if err != nil {
		return failure, err
	}
	defer lock.Close()
	// What can fail for want of space fails here, when the command can still be given to another shim.
	record, err := newRecord(dir)
	if err != nil {
		return failure, err
	}
	log, err := newLog(dir)
	if err != nil {
		return failure, err
	}
	command, stopped, err := awaitStart(dir, signals)
	if err != nil {
		return failure, err
	}
	exit := Exit{Started: time.Now()}
	if stopped == nil {
		log.limitTo(command.LogLimit)
		exit.Code, exit.Signal = runCommand(command, signals, log)
	} else {
		exit.Code, exit.Signal = 128+int(stopped.(syscall.Signal)), int(stopped.(syscall.Signal))
	}
	exit.Ended = time.Now()
	exit.Lost = log.close()
	return exit.Code, record.write(exit)
}

// takeLock makes the lock file. It appears under its name only when it is locked, so that a free lock always means that
// its shim is gone; and it is never replaced, so that a folder has one shim for ever.
func takeLock(dir string) (*os.File, error) {
	temp := filepath.Join(dir, fmt.Sprintf("%s.%d", lockFile, os.Getpid()))
	lock, err := os.OpenFile(temp, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, filepath.Join(dir, lockFile), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		_ = lock.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("lock %s: %w; does another shim use it?", dir, err)
	}
	return lock, nil
}

// awaitStart waits for the command and takes it out of the folder, or returns the signal that came first.
func awaitStart(dir string, signals <-chan os.Signal) (Command, os.Signal, error) {
	path := filepath.Join(dir, startFile)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		data, err := readRegular(path, maxStart)
		if err == nil {
			command, err := decodeCommand(data)
			if err != nil {
				return Command{}, nil, fmt.Errorf("%s: %w", path, err)
			}
			if err := publishLog(dir); err != nil {
				return Command{}, nil, err
			}
			// Who removes it has it: nothing runs when that fails.
			return command, nil, os.Remove(path)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return Command{}, nil, err
		}
		select {
		case s := <-signals:
			return Command{}, s, nil
		case <-time.After(pause):
		}
	}
}

// record is the exit file before it has its name. Its bytes are on the disk from the beginning, so that a step which
// fills the disk still gets its result.
type record struct {
	file *os.File
	dir  string
}

func newRecord(dir string) (*record, error) {
	f, err := os.OpenFile(filepath.Join(dir, exitFile+".tmp"), os.O_CREATE|os.O_RDWR|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, maxExit)); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &record{file: f, dir: dir}, nil
}

func (r *record) write(exit Exit) error {
	data, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	// The rest of the reserved bytes becomes white space, which JSON allows.
	padded := make([]byte, maxExit)
	for i := copy(padded, data); i < len(padded); i++ {
		padded[i] = ' '
	}
	_, err = r.file.WriteAt(padded, 0)
	return errors.Join(err, r.file.Close(),
		os.Rename(filepath.Join(r.dir, exitFile+".tmp"), filepath.Join(r.dir, exitFile)))
}
