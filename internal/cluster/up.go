package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// upLimit bounds a start, so that a cluster that can't start says so in the end.
const upLimit = 3 * time.Minute

// Up starts the cluster in opts.Data and returns when it is ready: the node takes pods, the account "default" of the
// namespace "default" exists, and the Service of the API server answers from this machine. On a cluster that is ready it
// changes nothing and returns at once; where something died or a start was cut off, it repairs what is missing. When ctx
// ends it returns, and leaves what it started for the next Up or Down.
//
// The components outlive this process.
func Up(ctx context.Context, opts Options) error {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return err
	}
	if err := l.preflight(ctx); err != nil {
		return err
	}
	say := newProgress(opts.Progress).say
	if err := os.MkdirAll(l.data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	unlock, err := l.lock(ctx, func() { say("waiting for another command on this cluster") })
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, upLimit, fmt.Errorf("the cluster was not ready after %s", upLimit))
	defer cancel()

	s, err := l.openState()
	if err != nil {
		return err
	}
	if err := l.prepare(ctx, &s, opts, say); err != nil {
		return err
	}
	k, err := l.kube(s.network())
	if err != nil {
		return err
	}
	defer k.close()
	if err := l.startAll(ctx, s, k, say); err != nil {
		return err
	}
	if err := until(ctx, func() error { return k.defaultAccount(ctx) }); err != nil {
		return fmt.Errorf("wait for the account of the namespace default: %w", err)
	}
	say("ready: Kubernetes %s at %s", s.Kubernetes, s.network().server())
	return nil
}

// openState reads what is known about the cluster, or starts with nothing. It refuses a folder that is something else.
func (l layout) openState() (state, error) {
	built := version(l.program("kube-apiserver"))
	s, err := l.loadState()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(l.data)
		if err != nil {
			return s, fmt.Errorf("read the data folder: %w", err)
		}
		for _, e := range entries {
			if e.Name() != "lock" && !strings.HasPrefix(e.Name(), ".new-") {
				return s, fmt.Errorf("%s holds other things than a cluster (%s, for one): name an empty folder with --data", l.data, e.Name())
			}
		}
		return state{Layout: layoutVersion, Kubernetes: built}, nil
	case err != nil:
		return s, err
	case s.Kubernetes != built:
		return s, fmt.Errorf("the cluster in %s was made by Kubernetes %s, and %s holds %s: remove it with `slipway cluster down --delete --data %s`, which loses what is deployed on it, or go back to the former programs", l.data, s.Kubernetes, l.bin, built, l.data)
	}
	return s, nil
}

// prepare makes everything that the components need: addresses, certificates, configuration, namespaces, links, rules.
func (l layout) prepare(ctx context.Context, s *state, opts Options, say func(string, ...any)) error {
	var alive []string
	for _, name := range componentNames {
		if _, ok := l.running(name); ok {
			alive = append(alive, name)
		}
	}
	intact := l.intact()
	if !intact {
		// What runs in namespaces that nobody can enter any more, or that lack something, is of no use.
		if n, err := kill(ctx, l.cgroups().folders()...); err != nil {
			return err
		} else if n > 0 {
			say("ended %d processes that an earlier cluster left behind", n)
		}
		if err := errors.Join(l.removeNetwork(ctx), l.removeNamespaces()); err != nil {
			return err
		}
		alive = nil
	}

	registries := opts.registries(*s)
	if registries != nil {
		for _, r := range registries {
			if err := r.check(); err != nil {
				return err
			}
		}
		s.Registries, s.Own = registries, opts.Registries == nil
		if s.Own {
			say("pulls from this machine's server, %s, which mirrors %s", opts.Own.Host, cmp.Or(strings.Join(opts.Own.Mirrors, ", "), "nothing"))
		}
	}
	if intact && len(alive) == len(componentNames) && l.linked() {
		if registries == nil {
			return nil
		}
		return l.setRegistries(ctx, s, registries)
	}

	err := lockFolder(ctx, "/run", func() error {
		if err := l.claimNetwork(s); err != nil {
			return err
		}
		dirs, err := l.makeFolders()
		if err != nil {
			return err
		}
		if err := l.saveState(*s); err != nil {
			return err
		}
		if err := l.makeNamespaces(dirs); err != nil {
			return err
		}
		return l.makeNetwork(s.network())
	})
	if err != nil {
		return err
	}
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := l.applyFirewall(ctx, *s); err != nil {
		return err
	}
	if err := l.writeRegistries(*s); err != nil {
		return err
	}
	if len(alive) > 0 {
		say("running already: %s", strings.Join(alive, ", "))
		return nil // with the certificates and configuration that they were started with
	}
	m, err := look(l.data)
	if err != nil {
		return err
	}
	if err := makePKI(l.in("pki"), s.network(), time.Now()); err != nil {
		return err
	}
	if err := (settings{l, s.network(), m}).writeConfig(); err != nil {
		return err
	}
	say("network %s, certificates and configuration are there", s.Block)
	return nil
}

// claimNetwork chooses the cluster's addresses, or makes sure that those chosen once are still free.
func (l layout) claimNetwork(s *state) error {
	if l.linked() && s.Block.IsValid() {
		return nil // they are in use, by this very cluster
	}
	used, err := usedPrefixes()
	if err != nil {
		return err
	}
	if !s.Block.IsValid() {
		n, err := chooseNetwork(l.seed(), used)
		if err != nil {
			return err
		}
		s.Block = n.block
		return nil
	}
	own := []netip.Prefix{s.network().link(), s.network().pods(), s.network().services()}
	for _, p := range used {
		if p.Bits() > 0 && p.Overlaps(s.Block) && !slices.Contains(own, p) && p.Addr() != s.network().host() {
			return fmt.Errorf("the cluster's addresses %s are routed to %s on this machine by now: free them, or make the cluster anew after `slipway cluster down --delete --data %s`", s.Block, p, l.data)
		}
	}
	return nil
}

// seed spreads the addresses of clusters.
func (l layout) seed() byte { return l.id[len(l.id)-1] }

// kernelSettings are what the kubelet insists on and would set for the whole machine. Where it looks, it finds that they
// are set.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// madeBySlipway is the name of the file in those folders outside of the cluster's own that are only there to mount on.
const madeBySlipway = "made-by-slipway-cluster"

// mountTargets are the folders in which upstream's programs keep things without asking, and what is shown in their place.
func (l layout) mountTargets() map[string]string {
	return map[string]string{
		"/var/lib/kubelet":    l.in("kubelet"),
		"/var/lib/cni":        l.run("cni"),
		"/run/containerd":     l.run("shim"),
		"/var/log/containers": l.run("container-logs"),
	}
}

// makeFolders makes the cluster's folders, and gives what to mount where in its mount namespace.
func (l layout) makeFolders() (map[string]string, error) {
	dirs := l.mountTargets()
	own := []string{l.in("log"), l.in("etcd"), l.in("containerd"), l.in("pods"), l.in("home"), l.run("sysctl"), l.run("pids")}
	for _, dir := range slices.AppendSeq(own, maps.Values(dirs)) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the cluster's folders: %w", err)
		}
	}
	for target := range dirs {
		err := os.Mkdir(target, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(target, madeBySlipway), nil, 0o644)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make a folder to mount on: %w", err)
		}
	}
	for name, value := range kernelSettings {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue // not every kernel has every one
		}
		source := l.run("sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(source, []byte(value+"\n"), 0o644); err != nil {
			return nil, err
		}
		dirs[target] = source
	}
	return dirs, nil
}

// startAll starts those components that don't run, stage by stage, and waits for all.
func (l layout) startAll(ctx context.Context, s state, k *kube, say func(string, ...any)) error {
	for i, stage := range l.components(s.network(), k) {
		if i == 2 {
			for _, o := range bootstrapObjects {
				if err := k.apply(ctx, o.path, o.yaml); err != nil {
					return fmt.Errorf("grant the components their rights: %w", err)
				}
			}
		}
		group, ctx := errgroup.WithContext(ctx)
		for _, c := range stage {
			group.Go(func() error {
				started, err := l.ensure(ctx, c)
				if err != nil {
					return err
				}
				if c.name == "containerd" {
					if err := l.ensurePause(ctx); err != nil {
						return err
					}
				}
				if started {
					say("%s is ready", c.name)
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// ensure starts a component unless it runs, and waits until it does its work.
func (l layout) ensure(ctx context.Context, c component) (started bool, err error) {
	err = l.await(ctx, c)
	if !errors.Is(err, errEnded) {
		return false, err
	}
	if err := l.clear(ctx, c); err != nil {
		return false, err
	}
	if err := l.start(ctx, c.name, l.environment(c.name, os.Environ()), l.program(c.program), c.args...); err != nil {
		return true, err
	}
	if err := l.await(ctx, c); errors.Is(err, errEnded) {
		return true, fmt.Errorf("%s ended while it started; its log %s closes with: %s", c.name, l.log(c.name), lastLine(l.log(c.name)))
	} else if err != nil {
		return true, err
	}
	return true, nil
}

var errEnded = errors.New("it does not run")

// await waits until a component does its work. It gives errEnded as soon as the component does not run.
func (l layout) await(ctx context.Context, c component) error {
	err := until(ctx, func() error {
		if _, ok := l.running(c.name); !ok {
			return fatal{errEnded}
		}
		return c.probe(ctx)
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", c.name, err)
	}
	return nil
}

// clear makes way for a component: it waits until the last one is gone for good, and ends one whose number was never
// written down, because the Up that started it died.
func (l layout) clear(ctx context.Context, c component) error {
	var old []process
	if p, ok := l.started(c.name); ok {
		old = append(old, p)
	}
	for _, pid := range processes(l.cgroups().component(c.name)) {
		p, ok := inspect(pid)
		// containerd's shims are in its group too, and hold the containers: they must live on.
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if !ok || err != nil || strings.TrimSuffix(filepath.Base(exe), " (deleted)") != c.program {
			continue
		}
		if err := p.signal(unix.SIGKILL); err != nil {
			return err
		}
		old = append(old, p)
	}
	for _, p := range old {
		for p.alive() {
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return fmt.Errorf("wait for the end of an earlier %s: %w", c.name, err)
			}
		}
	}
	return nil
}

// lastLine reads the last line of a file, within its last 4096 bytes.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	const tail = 4096
	b := make([]byte, tail)
	var from int64
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		from = info.Size() - tail
	}
	n, _ := f.ReadAt(b, from)
	_, line, found := cutLast(strings.TrimSpace(string(b[:n])), "\n")
	if !found {
		line = strings.TrimSpace(string(b[:n]))
	}
	return line
}

// fatal is an error that waiting does not cure.
type fatal struct{ error }

// Unwrap gives the error itself.
func (f fatal) Unwrap() error { return f.error }

// until looks again and again until look gives nil or a fatal error. When ctx ends, the error says why and what was missing.
func until(ctx context.Context, look func() error) error {
	for {
		err := look()
		if err == nil {
			return nil
		}
		var f fatal
		if errors.As(err, &f) {
			return f.error
		}
		if ended := pause(ctx, 25*time.Millisecond); ended != nil {
			return fmt.Errorf("%w; last: %w", ended, err)
		}
	}
}

// lockFolder runs f while no other process of this machine runs its own on the same folder. A folder can be locked like a
// file, and needs no file that would stay behind.
func lockFolder(ctx context.Context, dir string, f func() error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	err = until(ctx, func() error {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fatal{err}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	return f()
}
