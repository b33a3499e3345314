package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/kube"
)

// requestsPerSecond is the load, half of it on new connections and half on kept ones.
const requestsPerSecond = 200

// load sends requests at a constant rate until it is stopped.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}
	began  time.Time

	mu     sync.Mutex
	result loadResult
}

// loadResult is what became of the requests.
type loadResult struct {
	sent, failed int
	took         time.Duration
	// causes are the first few failures.
	causes []string
}

func startLoad(address string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{}), began: time.Now()}
	fresh := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	kept := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	go func() {
		defer close(l.done)
		var requests sync.WaitGroup
		defer requests.Wait()
		tick := time.NewTicker(time.Second / requestsPerSecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			by := fresh
			if n%2 == 1 {
				by = kept
			}
			requests.Go(func() { l.count(ask(by, address)) })
		}
	}()
	return l
}

// ask sends one request. It is not canceled when the load is stopped: each request that was sent counts.
func ask(by *http.Client, address string) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := by.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}

func (l *load) count(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result.sent++
	if err != nil {
		l.result.failed++
		if len(l.result.causes) < 5 {
			l.result.causes = append(l.result.causes, err.Error())
		}
	}
}

// stop ends the load, waits for the requests that are on their way, and says what became of all.
func (l *load) stop() loadResult {
	l.cancel()
	<-l.done
	l.result.took = time.Since(l.began)
	return l.result
}

// serviceIP returns the address of a Service in its cluster.
func serviceIP(ctx context.Context, at *kube.Client, namespace, name string) (string, error) {
	service, err := at.Core.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return service.Spec.ClusterIP, nil
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
