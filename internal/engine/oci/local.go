package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
)

// putFiles writes files into a root filesystem. Its symbolic links lead nowhere else.
func putFiles(rootfs string, files []engine.File) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, file := range files {
		name := filepath.FromSlash(strings.TrimPrefix(path.Clean(file.Path), "/"))
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, file.Content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// serveLocal has the step's handler answer in the network namespace at path, unless it does already. A step does without if
// that fails, and its log says so.
func (e *Env) serveLocal(netns string, step engine.Step) {
	if step.Local == nil || step.Exec.HostNetwork {
		return
	}
	err := e.listenLocal(netns, step.Local)
	if err != nil && step.Progress != nil {
		fmt.Fprintf(step.Progress, "nothing answers at %s: %v\n", engine.LocalAddress, err)
	}
}

func (e *Env) listenLocal(netns string, handler http.Handler) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.detached {
		return net.ErrClosed
	}
	if e.locals[netns] != nil {
		return nil
	}
	listener, err := listenIn(netns, engine.LocalAddress)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	if e.locals == nil {
		e.locals = map[string]*http.Server{}
	}
	e.locals[netns] = server
	e.serving.Go(func() { _ = server.Serve(listener) }) // it ends when the server is closed
	return nil
}

// closeLocal ends what answers in a network namespace.
func (e *Env) closeLocal(netns string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if server := e.locals[netns]; server != nil {
		_ = server.Close()
		delete(e.locals, netns)
	}
}

// listenIn listens in the network namespace at path. The socket stays there, whoever accepts from it.
func listenIn(netns, address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, and no other one gets it with its foreign namespace.
		runtime.LockOSThread()
		ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{err: fmt.Errorf("open the network namespace: %w", err)}
			return
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter the network namespace: %w", err)}
			return
		}
		listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", address)
		done <- result{listener, err}
	}()
	r := <-done
	return r.listener, r.err
}
