package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/internal/api"
	"slipway/internal/cluster"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/e2e/program"
)

// TestKubelet runs pods with an image that only the server's registry has: with a token for the whole machine, with one that
// the pod names, with one that is not enough, and with none.
func TestKubelet(t *testing.T) {
	c := clustertest.Start(t)
	// The node has a token for the registry by one of its names.
	loggedIn := program.Address(t)
	plain := strings.Replace(loggedIn, "127.0.0.1", "localhost", 1)
	s := startAt(t, loggedIn, "host", "--url", "http://"+plain)
	if _, err := s.api.AddRepo(t.Context(), api.NewRepo{Name: "octo/app"}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := cluster.WriteProgramImage(&archive, s.host+"/octo/app:1", clustertest.Program(t, `package main; func main() { println("hello") }`)); err != nil {
		t.Fatal(err)
	}
	image, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(s.host+"/octo/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithAuth(s.login())); err != nil {
		t.Fatal(err)
	}

	c.Registry(cluster.Registry{Host: loggedIn, Authorization: "Bearer " + s.scoped("cluster", "pull")})
	c.Registry(cluster.Registry{Host: plain})
	for secret, scope := range map[string]string{"reader": "pull:octo/app", "other": "pull:octo/other"} {
		c.Kubectl("create", "secret", "docker-registry", secret, "--docker-server="+plain, "--docker-username=octo", "--docker-password="+s.scoped(secret, scope))
	}
	pod := func(name, host, secret string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  imagePullSecrets: [%s]
  containers: [{name: hello, image: "%s/octo/app:1", imagePullPolicy: Always}]
---`, name, secret, host)
	}
	c.Apply(pod("node-token", loggedIn, "") + pod("pod-token", plain, "{name: reader}") + pod("wrong-token", plain, "{name: other}") + pod("no-token", plain, ""))
	const patience = "--timeout=6m" // the kubelet tries again after up to five minutes, and only then the reason is ErrImagePull again
	for _, name := range []string{"node-token", "pod-token"} {
		c.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", patience, "pod/"+name)
		if got := c.Kubectl("logs", name); got != "hello\n" {
			t.Errorf("the pod %s printed %q", name, got)
		}
	}
	for _, name := range []string{"wrong-token", "no-token"} {
		const waiting = ".status.containerStatuses[0].state.waiting"
		got := c.Kubectl("wait", "--for=jsonpath={"+waiting+".reason}=ErrImagePull", patience, "pod/"+name, "-o=jsonpath={"+waiting+".message}")
		if !strings.Contains(got, "authorization failed") {
			t.Errorf("the pod %s waits because %q", name, got)
		}
	}
}
