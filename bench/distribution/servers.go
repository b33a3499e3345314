package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// registry is a server under test.
type registry struct {
	name, url string
	// password, if there is one, gets the token that requests bear, as docker and containerd do it.
	password, token string
	process         *os.Process
	best            result
	// streaming and crowded are by how many MB the server grew at most while a large blob went up and down, and while
	// many pulled at once.
	streaming, crowded int
	// most is the most memory before the kernel's own record was last reset, in MB.
	most int
}

func startSlipway(program, data string) (*registry, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &registry{name: "slipway", url: "http://" + address}
	if err := r.start(exec.Command(program, "server", "--data", data, "--listen", address, "--no-runner")); err != nil {
		return nil, err
	}
	password, err := os.ReadFile(filepath.Join(data, "admin-token"))
	r.password = strings.TrimSpace(string(password))
	return r, err
}

// login gets a token, which is good for five minutes.
func (r *registry) login() error {
	if r.password == "" {
		return nil
	}
	req, err := http.NewRequest(http.MethodGet, r.url+"/v2/token?service=slipway&scope=repository:"+repository+":pull,push", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("bench", r.password)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("no token from %s: %s: %w", r.name, resp.Status, err)
	}
	if answer.Token == "" {
		return fmt.Errorf("no token from %s: %s", r.name, resp.Status)
	}
	r.token = answer.Token
	return nil
}

func startPeer(program, data string) (*registry, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	// Its defaults, but for the noise.
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", data, address)
	file := filepath.Join(data, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "serve", file)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r := &registry{name: "distribution", url: "http://" + address}
	return r, r.start(cmd)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts the server and waits until it answers.
func (r *registry) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	r.process = cmd.Process
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		resp, err := http.Get(r.url + "/v2/")
		if err == nil {
			return resp.Body.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not answer", r.name)
}

func (r *registry) stop() {
	_ = r.process.Kill()
	_, _ = r.process.Wait()
}

// memory is a number of the process's status in MB: VmRSS now, VmHWM at most.
func (r *registry) memory(field string) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), field+":")
	kilobytes := 0
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return 0
	}
	if field == "VmHWM" {
		r.most = max(r.most, kilobytes/1000)
		return r.most
	}
	return kilobytes / 1000
}

// peak returns by how many MB the server grew at most while do ran.
func (r *registry) peak(do func() error) (int, error) {
	r.memory("VmHWM")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.process.Pid), []byte("5"), 0); err != nil {
		return 0, err
	}
	before := r.memory("VmRSS")
	most := r.most
	r.most = 0
	err := do()
	peak := r.memory("VmHWM")
	r.most = max(most, peak)
	return max(0, peak-before), err
}
