package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/buildkit"
	"slipway/internal/cluster"
	"slipway/internal/engine/host"
	"slipway/internal/engine/oci"
	"slipway/internal/fault"
	"slipway/internal/image"
	"slipway/internal/protocol"
	"slipway/internal/runner"
	"slipway/internal/shim/bin"
)

// defaultData is the data folder of a server for which no other is named.
const defaultData = "/var/lib/slipway/server"

// runnerOptions are the flags of `slipway runner`.
type runnerOptions struct {
	server    string
	tokenFile string
	data      string
	// What follows is also given to `slipway server`, for its own runner.
	name       string
	engine     string
	runc       string
	kubeconfig string
	mirrors    []string
	insecure   []string
	labels     map[string]string
	capacity   int
}

func newRunnerCommand() *cobra.Command {
	var opts runnerOptions
	cmd := &cobra.Command{
		Use:   "runner",
		Short: "Claim jobs of a server and run them on this machine",
		Long: `Claim jobs of a server and run them on this machine. When the runner is stopped or killed, steps that run go on;
the next start finds them again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRunner(cmd.Context(), opts, cmd.ErrOrStderr()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.server, "server", "http://127.0.0.1:7070", "root of the server")
	flags.StringVar(&opts.tokenFile, "token-file", "", "file with a token of the scope runner")
	flags.StringVar(&opts.data, "data", "/var/lib/slipway/runner", "folder of everything that the runner keeps")
	opts.addEngineFlags(flags)
	return cmd
}

func (o *runnerOptions) addEngineFlags(flags *pflag.FlagSet) {
	hostname, _ := os.Hostname() // a runner may be called "" too
	flags.StringVar(&o.name, "name", hostname, "name of the runner")
	flags.StringVar(&o.engine, "engine", "oci", "oci: containers on this machine; host: plain processes, for trusted repos only")
	flags.StringVar(&o.runc, "runc", defaultRunc(), "the runc program")
	flags.StringVar(&o.kubeconfig, "kubeconfig", defaultKubeconfig(), "kubeconfig file of the cluster that deploy steps without one use")
	flags.StringArrayVar(&o.mirrors, "mirror", nil, "HOST=URL: ask the registry at URL for images of the registry HOST first (after those comes the server's own, for all that it mirrors)")
	flags.StringArrayVar(&o.insecure, "insecure-registry", nil, "host of a registry that is spoken to over plain HTTP")
	flags.StringToStringVar(&o.labels, "label", nil, "key=value that jobs may ask for")
	flags.IntVar(&o.capacity, "capacity", 2, "jobs at once")
}

// args are the flags that make a runner with these options.
func (o runnerOptions) args() []string {
	args := []string{
		"runner", "--server", o.server, "--token-file", o.tokenFile, "--data", o.data, "--name", o.name,
		"--engine", o.engine, "--runc", o.runc, "--kubeconfig", o.kubeconfig, "--capacity", strconv.Itoa(o.capacity),
	}
	for _, m := range o.mirrors {
		args = append(args, "--mirror", m)
	}
	for _, h := range o.insecure {
		args = append(args, "--insecure-registry", h)
	}
	for k, v := range o.labels {
		args = append(args, "--label", k+"="+v)
	}
	return args
}

// check finds what can be known to be wrong before anything is started.
func (o runnerOptions) check() error {
	if u, err := url.Parse(o.server); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fault.New(fault.Invalid, "--server %q is not the root of a server, such as https://slipway.example.com", o.server)
	}
	if o.capacity < 1 {
		return fault.New(fault.Invalid, "--capacity is at least 1, not %d", o.capacity)
	}
	if _, err := o.parseMirrors(); err != nil {
		return err
	}
	switch o.engine {
	case "host":
	case "oci":
		if os.Geteuid() != 0 {
			return fault.New(fault.Forbidden, "the engine oci makes containers and needs root; start as root, or choose --engine host")
		}
		if _, err := exec.LookPath(o.runc); err != nil {
			return fault.New(fault.Unavailable, "there is no program %s, which runs containers; install it (Debian package runc), or name it by --runc", o.runc)
		}
	default:
		return fault.New(fault.Invalid, "there is no engine %q; use oci or host", o.engine)
	}
	return nil
}

// defaultRunc is the runc beside this program, as `make` puts it there, or else the one on PATH.
func defaultRunc() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "runc")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return "runc"
}

// defaultKubeconfig is $KUBECONFIG, or else that of the cluster on this machine.
func defaultKubeconfig() string {
	if file := os.Getenv("KUBECONFIG"); file != "" {
		return file
	}
	return filepath.Join(cluster.DefaultData, "kubeconfig")
}

// runRunner is the whole runner.
func runRunner(ctx context.Context, opts runnerOptions, stderr io.Writer) (err error) {
	// Its log goes where that of the server goes which started it. If that is a pipe, and its reader dies with the server,
	// the runner goes on without a log.
	signal.Ignore(syscall.SIGPIPE)
	log := slog.New(slog.NewTextHandler(stderr, nil)).With("runner", opts.name)
	if err := opts.check(); err != nil {
		return err
	}
	if opts.tokenFile == "" {
		return fault.New(fault.Invalid, "a runner needs a token: make one by slipway token create NAME --scope runner, and name its file by --token-file")
	}
	token, err := os.ReadFile(opts.tokenFile)
	if err != nil {
		return fault.New(fault.Invalid, "the runner's token in %s cannot be read: %s", opts.tokenFile, fault.Cause(err))
	}
	unlock, err := lockData("runner", opts.data)
	if err != nil {
		return err
	}
	defer unlock()
	server := &protocol.Client{
		URL: opts.server, Token: strings.TrimSpace(string(token)),
		HTTP: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute}},
	}

	wired := runner.Options{
		Name: opts.name, OS: runtime.GOOS, Arch: runtime.GOARCH, Labels: opts.labels,
		Dir: filepath.Join(opts.data, "jobs"), Server: server, Capacity: opts.capacity, Log: log,
		Kubeconfig: opts.kubeconfig, Renderer: renderSandbox().Render,
	}
	shimBinary, err := bin.Install(filepath.Join(opts.data, "bin"))
	if err != nil {
		return fmt.Errorf("unpack the shim: %w", err)
	}
	switch opts.engine {
	case "host":
		wired.Engine, err = host.New(host.Options{Dir: filepath.Join(opts.data, "host"), Shim: shimBinary})
	case "oci":
		mirrors, mirrorErr := opts.parseMirrors()
		if mirrorErr != nil {
			return mirrorErr
		}
		own := ownMirror{Server: server, others: mirrors, mirror: buildkit.Mirror{URL: opts.server, Username: "runner", Password: server.Token}, log: log}
		logrus.SetLevel(logrus.ErrorLevel) // containerd's libraries warn of what is ordinary here
		var daemon *buildkit.Daemon
		daemon, err = buildkit.Open(ctx, buildkit.Options{
			Dir: filepath.Join(opts.data, "buildkit"), Runc: opts.runc, Mirrors: own.with("docker.io"), Insecure: opts.insecure,
		})
		if err != nil {
			return fault.New(fault.Unavailable, "%w", err)
		}
		defer func() { err = errors.Join(err, daemon.Close()) }()
		own.set = daemon.SetMirrors
		wired.Server, wired.Registry = &own, opts.server
		wired.Images = image.NewBuilder(daemon)
		wired.Engine, err = oci.New(oci.Options{Dir: filepath.Join(opts.data, "oci"), Runc: opts.runc, Shim: shimBinary, Images: pulledImages{daemon}})
	}
	if err != nil {
		return fault.New(fault.Unavailable, "%w", err)
	}
	defer func() { err = errors.Join(err, wired.Engine.Close()) }()
	return runner.New(wired).Run(ctx)
}

// parseMirrors reads --mirror.
func (o runnerOptions) parseMirrors() (map[string][]buildkit.Mirror, error) {
	mirrors := map[string][]buildkit.Mirror{}
	for _, m := range o.mirrors {
		of, address, ok := strings.Cut(m, "=")
		u, err := url.Parse(address)
		if !ok || err != nil || u.Host == "" {
			return nil, fault.New(fault.Invalid, "--mirror %q is not HOST=URL, such as docker.io=https://mirror.example.com", m)
		}
		of = buildkit.CanonicalHost(of)
		mirrors[of] = append(mirrors[of], buildkit.Mirror{URL: address})
	}
	return mirrors, nil
}

// lockData makes a data folder, if it is not there, and takes its lock.
func lockData(who, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.Invalid, "the data folder %s cannot be made: %s; choose another by --data", dir, fault.Cause(err))
	}
	unlock, err = lockFile(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, errLocked):
		return nil, fault.New(fault.Conflict, "another slipway %s uses %s: %w", who, dir, err)
	case err != nil:
		return nil, fault.New(fault.Invalid, "the data folder %s cannot be written: %s; choose another by --data", dir, fault.Cause(err))
	}
	return unlock, nil
}

// lockFile takes the lock of a data folder, or says which process has it.
func lockFile(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 32))
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w by process %s", errLocked, strings.TrimSpace(string(holder)))
		}
		return nil, err
	}
	if err = file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

var errLocked = errors.New("it is locked")

// superviseRunner keeps a runner running beside the server until ctx is done, and then stops it; its steps go on. A
// runner that an earlier server left is kept: it is found by its lock.
func superviseRunner(ctx context.Context, opts runnerOptions, log *slog.Logger) error {
	if err := os.MkdirAll(opts.data, 0o700); err != nil {
		return fmt.Errorf("make the runner's folder: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	lock := filepath.Join(opts.data, "lock")
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		if unlock, err := lockFile(lock); errors.Is(err, errLocked) {
			log.Info("a runner is there already; keeping it")
			if pid := awaitUnlock(ctx, lock); ctx.Err() != nil {
				stopProcess(pid, lock)
				return nil
			}
			continue
		} else if err == nil {
			unlock()
		}
		cmd := exec.CommandContext(context.WithoutCancel(ctx), self, opts.args()...) // it is asked to stop, not killed
		cmd.Stderr = os.Stderr
		// A session of its own: what ends this process, Ctrl-C included, does not reach it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		started := time.Now()
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start the runner: %w", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ctx.Done():
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				return nil // it has ended by itself
			}
			select {
			case err := <-ended:
				log.Debug("the runner stopped", "error", err)
			case <-time.After(10 * time.Second):
				log.Warn("the runner does not stop; leaving it", "pid", cmd.Process.Pid)
			}
			return nil
		case err := <-ended:
			if time.Since(started) > time.Minute {
				wait = time.Second
			}
			log.Error("the runner ended; starting it again", "error", err, "in", wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// awaitUnlock waits until nobody holds the lock or ctx is done, and returns the process that held it.
func awaitUnlock(ctx context.Context, lock string) (pid int) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		text, _ := os.ReadFile(lock) // it is there: somebody holds it
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		unlock, err := lockFile(lock)
		if err == nil {
			unlock()
			return pid
		}
		select {
		case <-ctx.Done():
			return pid
		case <-tick.C:
		}
	}
}

// stopProcess asks the holder of the lock to stop and waits a little for it.
func stopProcess(pid int, lock string) {
	if pid <= 1 || syscall.Kill(pid, syscall.SIGTERM) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	awaitUnlock(ctx, lock)
}
