package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The files of the folder.
const (
	startFile = "start"
	lockFile  = "lock"
	logFile   = "log"
	exitFile  = "exit"
)

// Bounds of what is read from the folder.
const (
	// DefaultLogLimit is how many bytes of output are kept when a [Command] does not say.
	DefaultLogLimit = 512 << 20
	// MaxLogLimit is the highest LogLimit that a [Command] may have. No log is read beyond it and its last line.
	MaxLogLimit = 4 << 30

	maxStart = 64 << 20
	maxExit  = 4 << 10
)

// Command is what the shim runs.
type Command struct {
	// Args is the program and its arguments. A program without a slash is looked for on the PATH of Env.
	Args []string
	// Env is the whole environment, each entry "name=value".
	Env []string
	// Dir is the working directory; it is made if it does not exist.
	Dir string
	// Script is given to the command on its standard input.
	Script string
	// User, if not nil, is who runs the command; else it is the shim's own user.
	User *User
	// LogLimit is how many bytes of output are kept; 0 means DefaultLogLimit.
	LogLimit int64
}

// User is a user by numbers, as the kernel knows it.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Exit is how a step ended.
type Exit struct {
	// Code is the exit code; 128 and the number of the signal that ended the process; 127 if there was no such program
	// and 126 if it could not be run, as shells have it.
	Code int `json:"code"`
	// Signal is the number of the signal that ended the process, or 0.
	Signal int `json:"signal,omitempty"`
	// Started and Ended are by the clock of the container.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	// Lost says why output was lost (a full disk), or is empty. What exceeds the limit is not lost but cut, and the log says so.
	Lost string `json:"lost,omitempty"`
}

// wire is the form of a Command in its file. What need not be UTF-8 is bytes, as JSON would change it.
type wire struct {
	Args     [][]byte `json:"args"`
	Env      [][]byte `json:"env"`
	Dir      string   `json:"dir"`
	Script   []byte   `json:"script,omitempty"`
	User     *User    `json:"user,omitempty"`
	LogLimit int64    `json:"log_limit"`
}

func (c Command) encode() ([]byte, error) {
	return json.Marshal(wire{toBytes(c.Args), toBytes(c.Env), c.Dir, []byte(c.Script), c.User, c.LogLimit})
}

func decodeCommand(data []byte) (Command, error) {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return Command{}, err
	}
	c := Command{toStrings(w.Args), toStrings(w.Env), w.Dir, string(w.Script), w.User, w.LogLimit}
	return c, c.validate()
}

// validate holds what the kernel would otherwise refuse in its own words.
func (c Command) validate() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New("there is no command to run")
	}
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("the working directory %q is not absolute", c.Dir)
	}
	if c.LogLimit < 0 || c.LogLimit > MaxLogLimit {
		return fmt.Errorf("a log limit of %d bytes is not between 0 and %d", c.LogLimit, int64(MaxLogLimit))
	}
	for _, arg := range c.Args {
		if strings.ContainsRune(arg, 0) {
			return errors.New("an argument of the command contains a NUL byte")
		}
	}
	for _, entry := range c.Env {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			return errors.New("an entry of the environment is not name=value")
		}
		if strings.ContainsRune(entry, 0) {
			return fmt.Errorf("the variable %s contains a NUL byte", strings.ReplaceAll(name, "\x00", ""))
		}
	}
	return nil
}

func decodeExit(data []byte) (Exit, error) {
	var exit Exit
	if err := json.Unmarshal(data, &exit); err != nil {
		return Exit{}, err
	}
	if exit.Code < 0 || exit.Code > 255 {
		return Exit{}, fmt.Errorf("exit code %d is not between 0 and 255", exit.Code)
	}
	return exit, nil
}

func toBytes(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

func toStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

// openRegular opens a file of the folder for reading. It follows no link and waits for nothing, whatever a step put there.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readRegular reads a file of the folder that must not be larger than limit.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}
