// Command slipway-demo shows the whole way of a push on this machine: it starts Kubernetes and a Slipway server, pushes
// the sample repository examples/printerfacts, shows its run as it happens and the answer of the service, and then
// pushes a second version while requests go on all the time. `make demo` runs it.
//
// Read [demo.run] from top to bottom; it is the demo.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/cluster"
	"slipway/internal/fault"
	"slipway/internal/kube"
)

const (
	repo      = "demo/printerfacts"
	namespace = "printerfacts"
	listen    = "127.0.0.1:7070"
	address   = "http://" + listen
)

func main() {
	once := flag.Bool("once", false, "tear everything down at the end and exit with the result")
	data := flag.String("data", "/var/lib/slipway/demo", "folder of everything that the demo keeps; it makes a repetition fast")
	source := flag.String("source", "examples/printerfacts", "the sample repository")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := start(ctx, *once, *data, *source); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// start finds what the demo is made of and runs it, and takes it all down whatever happened.
func start(ctx context.Context, once bool, data, source string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it starts containers and Kubernetes, for which it must be root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Dir(self)
	d := &demo{
		slipway: filepath.Join(bin, "slipway"), data: data, source: source, out: os.Stdout,
		cluster: cluster.Options{Data: filepath.Join(data, "cluster"), Bin: filepath.Join(bin, "cluster"), Progress: os.Stdout},
	}
	began := time.Now()
	defer func() {
		d.say("Taking it all down")
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, d.down(cleanup))
	}()
	if err := d.run(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nAll of it took %s.\n", time.Since(began).Round(time.Second))
	if once {
		return nil
	}
	d.say("It goes on running; Ctrl-C takes it all down")
	d.links()
	<-ctx.Done()
	return nil
}

// demo is the state of one demonstration.
type demo struct {
	slipway string
	data    string
	source  string
	cluster cluster.Options
	out     io.Writer

	server *exec.Cmd
	ended  chan error
	api    *client.Client
	token  string
	clone  string // the folder that is pushed from
	fact   string // the address of the service
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n\033[1m== "+format+"\033[0m\n", args...)
}

func (d *demo) run(ctx context.Context) error {
	d.say("Starting Slipway")
	if err := d.startServer(ctx); err != nil {
		return err
	}
	d.say("Starting Kubernetes")
	if err := d.startCluster(ctx); err != nil {
		return err
	}
	d.say("Base images")
	if err := d.baseImages(ctx); err != nil {
		return err
	}

	d.say("Pushing %s", repo)
	if err := d.makeRepo(ctx); err != nil {
		return err
	}
	first, err := d.pushAndFollow(ctx)
	if err != nil {
		return err
	}
	if err := d.findService(ctx); err != nil {
		return err
	}
	answer, err := get(ctx, d.fact)
	if err != nil {
		return fmt.Errorf("run %d succeeded, but the service does not answer: %w", first.Number, err)
	}
	fmt.Fprintf(d.out, "\n$ curl %s\n%s", d.fact, answer)

	d.say("Pushing a second version, while requests go on")
	if err := d.edit("facts.txt", "Printers can smell a deadline from two rooms away.\n"); err != nil {
		return err
	}
	load := startLoad(d.fact)
	second, err := d.pushAndFollow(ctx)
	result := load.stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nDuring run %d, with %s: \033[1m%d of %d requests failed\033[0m.\n", second.Number, result.took.Round(time.Second), result.failed, result.sent)
	for _, cause := range result.causes {
		fmt.Fprintln(d.out, "  ", cause)
	}
	d.links()
	if result.failed > 0 {
		return fmt.Errorf("%d requests were lost", result.failed)
	}
	return nil
}

// startServer starts a server, with its runner, and waits until it answers.
func (d *demo) startServer(ctx context.Context) error {
	if err := os.MkdirAll(d.data, 0o700); err != nil {
		return err
	}
	logPath := filepath.Join(d.data, "server.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer logFile.Close()
	d.server = exec.CommandContext(context.WithoutCancel(ctx), d.slipway, "server", "--data", filepath.Join(d.data, "server"), "--listen", listen,
		"--kubeconfig", filepath.Join(d.cluster.Data, "kubeconfig"))
	d.server.Stdout, d.server.Stderr = logFile, logFile
	d.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which stops things in order
	if err := d.server.Start(); err != nil {
		return err
	}
	d.ended = make(chan error, 1)
	go func() { d.ended <- d.server.Wait() }()
	for {
		if _, err := get(ctx, address+"/healthz"); err == nil {
			break
		}
		select {
		case err := <-d.ended:
			d.server = nil
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("the server ended: %w\n%s", err, text)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	token, err := os.ReadFile(filepath.Join(d.data, "server", "admin-token"))
	if err != nil {
		return err
	}
	d.token = strings.TrimSpace(string(token))
	d.api = &client.Client{URL: address, Token: d.token}
	fmt.Fprintf(d.out, "the server answers at %s; its log is %s\n", address, logPath)
	return nil
}

// startCluster starts Kubernetes, which pulls from the server's registry.
func (d *demo) startCluster(ctx context.Context) error {
	own, err := cluster.LoadRegistry(filepath.Join(d.data, "server", "own-registry.json"))
	if err != nil {
		return err
	}
	if own == nil {
		return fmt.Errorf("the server in %s says nothing of its registry", d.data)
	}
	d.cluster.Registries = []cluster.Registry{*own}
	return cluster.Up(ctx, d.cluster)
}

// makeRepo adds the repo to the server and copies the sample into a fresh clone of it. A repetition goes on where the
// last one stopped.
func (d *demo) makeRepo(ctx context.Context) error {
	added, err := d.api.AddRepo(ctx, api.NewRepo{Name: repo})
	if err != nil {
		return err
	}
	d.clone = filepath.Join(d.data, "clone")
	if err := os.RemoveAll(d.clone); err != nil {
		return err
	}
	if err := d.git(ctx, "", "clone", "--quiet", added.CloneURL, d.clone); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.clone)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() != ".git" {
			if err := os.RemoveAll(filepath.Join(d.clone, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.CopyFS(d.clone, os.DirFS(d.source)); err != nil {
		return fmt.Errorf("copy the sample: %w", err)
	}
	// Each demonstration is a new version, so that there is something to roll out.
	return d.edit("facts.txt", fmt.Sprintf("This printer was last serviced on %s.\n", time.Now().Format(time.RFC1123)))
}

// edit appends a line to a file of the clone.
func (d *demo) edit(name, text string) error {
	file, err := os.OpenFile(filepath.Join(d.clone, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// pushAndFollow commits and pushes what is in the clone, and shows its run to the end.
func (d *demo) pushAndFollow(ctx context.Context) (ci.Run, error) {
	for _, args := range [][]string{
		{"add", "--all"},
		{"-c", "user.name=Demo", "-c", "user.email=demo@localhost", "commit", "--quiet", "--message", "Teach the printer something new"},
		{"push", "origin", "HEAD:main"},
	} {
		if err := d.git(ctx, d.clone, args...); err != nil {
			return ci.Run{}, err
		}
	}
	runs, err := d.api.Runs(ctx, repo, 0, 1)
	if err != nil {
		return ci.Run{}, err
	}
	if len(runs) == 0 {
		return ci.Run{}, errors.New("the push made no run")
	}
	cmd := exec.CommandContext(ctx, d.slipway, "run", "log", "--follow", repo, fmt.Sprint(runs[0].Number))
	cmd.Env = append(os.Environ(), "SLIPWAY_SERVER="+address, "SLIPWAY_TOKEN="+d.token)
	cmd.Stdout, cmd.Stderr = d.out, d.out
	if err := cmd.Run(); err != nil {
		return ci.Run{}, fmt.Errorf("run %d did not succeed: %w", runs[0].Number, err)
	}
	return d.api.Run(ctx, repo, runs[0].Number)
}

// git runs git, in dir, with the demo's token for the server.
func (d *demo) git(ctx context.Context, dir string, args ...string) error {
	config := []string{"-c", "http." + address + "/.extraHeader=Authorization: Basic " + basic("demo", d.token), "-c", "init.defaultBranch=main"}
	cmd := exec.CommandContext(ctx, "git", append(config, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, d.out, d.out
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("git %s: %w", args[0], err)
	}
	return nil
}

// findService finds the address of the service in the cluster, which this machine reaches directly.
func (d *demo) findService(ctx context.Context) error {
	kubeconfig, err := cluster.Kubeconfig(d.cluster)
	if err != nil {
		return err
	}
	at, err := kube.FromKubeconfig(kubeconfig)
	if err != nil {
		return err
	}
	ip, err := serviceIP(ctx, at, namespace, "printerfacts")
	if err != nil {
		return fault.New(fault.NotFound, "the service is not there: %w", err)
	}
	d.fact = "http://" + ip + "/fact"
	return nil
}

func (d *demo) links() {
	fmt.Fprintf(d.out, "\n  the runs      %s/%s\n  the service   %s\n  the cluster   export KUBECONFIG=%s/kubeconfig\n  the token     %s/server/admin-token\n",
		address, repo, d.fact, d.cluster.Data, d.data)
}

// down stops the server, its runner and the cluster. What they keep stays, for the next time.
func (d *demo) down(ctx context.Context) error {
	var err error
	if d.server != nil {
		err = d.server.Process.Signal(syscall.SIGTERM)
		select {
		case ended := <-d.ended:
			err = errors.Join(err, ended)
		case <-ctx.Done():
			err = errors.Join(err, d.server.Process.Kill())
		}
	}
	return errors.Join(err, cluster.Down(ctx, d.cluster))
}

func get(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", address, resp.Status)
	}
	return string(text), err
}
