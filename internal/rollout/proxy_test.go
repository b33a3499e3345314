package rollout_test

import (
	"io"
	"net"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// proxy passes connections on to an address until it is cut. While it is cut, it closes each connection at once.
type proxy struct {
	to string
	ln net.Listener

	mu    sync.Mutex
	isCut bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, ln: ln, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.ln.Addr().String() }

func (p *proxy) serve() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		if err != nil || !p.keep(in, out) {
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}
		p.wg.Go(func() { defer in.Close(); defer out.Close(); io.Copy(in, out) })
		p.wg.Go(func() { defer in.Close(); defer out.Close(); io.Copy(out, in) })
	}
}

// keep remembers connections to cut; it reports false while the proxy is cut.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isCut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

// cut closes all connections and refuses new ones until restore.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = false
}

func parseGVK(t *testing.T, groupVersion, kind string) schema.GroupVersionKind {
	t.Helper()
	gv, err := schema.ParseGroupVersion(groupVersion)
	if err != nil {
		t.Fatal(err)
	}
	return gv.WithKind(kind)
}
