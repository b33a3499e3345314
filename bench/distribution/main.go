// Command distribution measures Slipway's registry beside the distribution registry, which this module builds, and a
// plain static file server, all on one machine in one run. bench/registry.sh calls it.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	repository = "octo/app"
	workers    = 4
	crowd      = 1000
	large      = 200 << 20
	manyTags   = 10000
)

func main() {
	slipway := flag.String("slipway", "bin/slipway", "program of Slipway")
	peer := flag.String("distribution", "bin/distribution", "program of the distribution registry")
	span := flag.Duration("span", 4*time.Second, "how long each rate is measured, in each turn")
	turns := flag.Int("turns", 5, "how often all is measured; the best of each counts")
	serve := flag.String("serve", "", "be the plain file server of this folder, and print its address")
	flag.Parse()
	if *serve != "" {
		log.Fatal(servePlain(*serve))
	}
	if err := run(*slipway, *peer, *span, *turns); err != nil {
		log.Fatal(err)
	}
}

// result is what was measured of one server: the best of all turns, per second, and pairs.
type result struct {
	push, pull, tags, crowd float64
	up, down                pairs
}

// pairs are rates in MB a second, each with that of the plain file right before it. Chance has its part in each, and the
// same in both of a pair, so what counts is the median.
type pairs struct{ rates, plain, ratios []float64 }

// add measures one more pair, of a large blob.
func (p *pairs) add(plain, own func() error) error {
	var before, after float64
	err := errors.Join(timed(&before, large/1e6, plain), timed(&after, large/1e6, own))
	p.rates, p.plain, p.ratios = append(p.rates, after), append(p.plain, before), append(p.ratios, after/before)
	return err
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// keep keeps the better of two rates.
func keep(best *float64, rate float64) { *best = max(*best, rate) }

func run(slipway, peer string, span time.Duration, turns int) (err error) {
	dir, err := os.MkdirTemp("", "registry-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plain, err := startPlain(filepath.Join(dir, "plain"))
	if err != nil {
		return err
	}
	defer plain.stop()
	ours, err := startSlipway(slipway, filepath.Join(dir, "slipway"))
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := startPeer(peer, filepath.Join(dir, "distribution"))
	if err != nil {
		return err
	}
	defer theirs.stop()
	content := random(large)
	for _, r := range []*registry{ours, theirs} {
		err := r.login()
		if err == nil {
			err = r.makeTags()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	// What is to be beaten or met takes turns with what is measured.
	for range turns {
		for _, r := range []*registry{ours, theirs} {
			if err := r.measure(span, plain, content); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	printTable(ours, theirs)
	return nil
}

// measure measures once all that there is to be known of the registry, and the plain file right before and after what it is held against.
func (r *registry) measure(span time.Duration, plain *plainServer, content []byte) error {
	if err := r.login(); err != nil {
		return err
	}
	push, err := rate(span, func() error { return r.push(random(10_000), "t") })
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	keep(&r.best.push, push)

	megabyte := random(1 << 20)
	if err := r.push(megabyte, "one"); err != nil {
		return err
	}
	layer := digest(megabyte)
	pull, err := rate(span, func() error { return r.pull(client, layer, "one") })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	keep(&r.best.pull, pull)

	streamed, err := r.peak(func() (err error) {
		var blob string
		for range 3 {
			rand.Read(content[:32]) // not the blob that was there before
			blob = digest(content)
			err = errors.Join(err, plain.remove(), r.best.up.add(
				func() error { return plain.write(content) },
				func() error { return r.putBlob(content, blob) }))
		}
		// In memory, and over loopback, it is a matter of milliseconds.
		for range 10 {
			err = errors.Join(err, r.best.down.add(
				func() error { return fetch(client, plain.url+"/blob", "") },
				func() error { return fetch(client, r.url+"/v2/"+repository+"/blobs/"+blob, r.token) }))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("200 MB up and down: %w", err)
	}
	r.streaming = max(r.streaming, streamed)

	if err := timed(&r.best.tags, 1, r.listTags); err != nil {
		return fmt.Errorf("tags: %w", err)
	}

	crowded, err := r.peak(func() error {
		return timed(&r.best.crowd, crowd, func() error { return r.pullAtOnce(layer, "one") })
	})
	if err != nil {
		return fmt.Errorf("%d pulls at once: %w", crowd, err)
	}
	r.crowded = max(r.crowded, crowded)
	return nil
}

// timed keeps the rate at which do did the work. What earlier work has left to be written to disk is written before.
func timed(best *float64, work float64, do func() error) error {
	syscall.Sync()
	start := time.Now()
	err := do()
	keep(best, work/time.Since(start).Seconds())
	return err
}

// rate calls do from several goroutines for a while, and returns how often a second it succeeded.
func rate(span time.Duration, do func() error) (float64, error) {
	syscall.Sync()
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	n := 0
	start := time.Now()
	for range workers {
		group.Go(func() {
			for time.Since(start) < span {
				err := do()
				mu.Lock()
				n++
				failed = errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return float64(n) / time.Since(start).Seconds(), failed
}

// plainServer is a file, and net/http's file server in a process of its own: what a registry cannot be faster than.
type plainServer struct {
	dir, url string
	process  *os.Process
}

func startPlain(dir string) (*plainServer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "-serve", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	return &plainServer{dir: dir, url: "http://" + strings.TrimSpace(address), process: cmd.Process}, err
}

func servePlain(dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	static := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	return static.Serve(l)
}

func (p *plainServer) stop() {
	_ = p.process.Kill()
	_, _ = p.process.Wait()
}

func (p *plainServer) path() string { return filepath.Join(p.dir, "blob") }

// remove removes the file, so that write need not free its blocks.
func (p *plainServer) remove() error { return os.RemoveAll(p.path()) }

// write writes the file, its digest beside, and syncs it.
func (p *plainServer) write(content []byte) error {
	f, err := os.Create(p.path())
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(sum, f), struct{ io.Reader }{bytes.NewReader(content)}, make([]byte, 512<<10))
	return errors.Join(err, f.Sync(), f.Close())
}

// printTable prints what was measured, and whether the targets were met.
func printTable(ours, theirs *registry) {
	a, b := ours.best, theirs.best
	met, all := 0, 0
	row := func(what, ours, theirs, plain, ratios, target string, good bool) {
		verdict := "NOT MET"
		if good {
			verdict = "met"
			met++
		}
		all++
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", what, ours, theirs, plain, ratios, target, verdict)
	}
	faster := func(what, format string, ours, theirs, factor float64) {
		row(what, fmt.Sprintf(format, ours), fmt.Sprintf(format, theirs), "", fmt.Sprintf("%.2f", ours/theirs),
			fmt.Sprintf("≥ %.0f × distribution", factor), ours >= factor*theirs)
	}
	// Time is what is bounded, so a rate may be that much lower.
	streamed := func(what string, ours, theirs pairs, slower float64) {
		own, peer, plain, ratio := median(ours.rates), median(theirs.rates), median(ours.plain), median(ours.ratios)
		row(what, fmt.Sprintf("%.0f", own), fmt.Sprintf("%.0f", peer), fmt.Sprintf("%.0f", plain), fmt.Sprintf("%.2f, %.2f", own/peer, ratio),
			fmt.Sprintf("ahead; time ≤ %.2f × plain file", slower), own >= peer && ratio*slower >= 1)
	}
	smaller := func(what string, ours, theirs int) {
		row(what, fmt.Sprint(ours), fmt.Sprint(theirs), "", fmt.Sprintf("%.2f", float64(ours)/float64(theirs)), "ahead", ours <= theirs)
	}
	fmt.Println("| best of all turns; 200 MB: medians | Slipway | distribution | plain file | ratio | target | |")
	fmt.Println("|---|---|---|---|---|---|---|")
	faster("small pushes (10 kB), a second", "%.0f", a.push, b.push, 2)
	faster("pulls of 1 MB, a second", "%.0f", a.pull, b.pull, 4)
	streamed("200 MB up, MB/s", a.up, b.up, 1.15)
	streamed("200 MB down, MB/s", a.down, b.down, 1.05)
	faster("10,000 tags in pages of 1,000, times a second", "%.1f", a.tags, b.tags, 1)
	faster("1,000 pulls of one image of 1 MB at once, pulls a second", "%.0f", a.crowd, b.crowd, 1)
	smaller("memory that 200 MB up and down take, MB", ours.streaming, theirs.streaming)
	smaller("memory that 1,000 pulls at once take, MB", ours.crowded, theirs.crowded)
	fmt.Printf("\n%d of %d targets met. The most memory (RSS) that the servers had: Slipway %d MB, distribution %d MB.\n",
		met, all, ours.memory("VmHWM"), theirs.memory("VmHWM"))
}
