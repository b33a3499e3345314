package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"slipway/internal/cluster/clustertest"
	"slipway/internal/testneeds"
)

// TestClients uses the registry with the programs that people have.
func TestClients(t *testing.T) {
	testneeds.Root(t)
	s := startSite(t)
	containerd := s.containerd()
	t.Run("docker", func(t *testing.T) { t.Parallel(); testDocker(guest{t, s}, containerd) })
	t.Run("podman", func(t *testing.T) { t.Parallel(); testPodman(guest{t, s}) })
	t.Run("regctl", func(t *testing.T) { t.Parallel(); testRegctl(guest{t, s}) })
	t.Run("containerd", func(t *testing.T) { t.Parallel(); testContainerd(guest{t, s}, containerd) })
}

// testDocker logs in to, pushes to and pulls from the registry by the docker command and its daemon.
func testDocker(c guest, containerd string) {
	docker := tool{guest: c, program: testneeds.Tool(c, "clients/docker"), env: []string{
		"DOCKER_HOST=unix://" + c.dockerd(containerd), "DOCKER_CONFIG=" + c.TempDir(),
	}}
	login := []string{"login", "--username", "octo", "--password-stdin", dockerHost}
	docker.login("wrong", "unauthorized: unknown user name or token", login...)
	docker.login(c.site.person, "", login...)
	ref := dockerHost + "/octo/app/docker"

	docker.run("load", "--input", c.archive(c.random(), ref+":one"))
	id := docker.run("image", "inspect", "--format", "{{.Id}}", ref+":one")
	docker.run("tag", ref+":one", ref+":two")
	docker.run("push", "--all-tags", ref)
	one, two := c.pushed("octo/app/docker:one"), c.pushed("octo/app/docker:two")
	if one.Digest != two.Digest || one.MediaType != types.DockerManifestSchema2 {
		c.Errorf("the tags are %+v and %+v", one, two)
	}

	// The same with the cluster's token, which Docker gives in as an OAuth2 refresh token when its store has it as one.
	docker.run("rmi", ref+":one", ref+":two")
	docker.run("logout", dockerHost)
	docker.refused("log in to pull octo/app/docker", "pull", ref+":one")
	docker = tool{guest: c, program: docker.program, env: []string{docker.env[0], "DOCKER_CONFIG=" + c.TempDir()}}
	c.write(strings.TrimPrefix(docker.env[1], "DOCKER_CONFIG=")+"/config.json", c.identity(dockerHost, c.site.cluster))
	docker.run("pull", ref+":two")
	c.site.seen.want(c.T, `^POST /v2/token 200 docker/`)
	docker.run("pull", ref+"@"+one.Digest.String())
	if got := docker.run("image", "inspect", "--format", "{{.Id}}", ref+":two"); got != id {
		c.Errorf("the image was %s and came back as %s", id, got)
	}
	docker.refused("octo/app/docker has no manifest three", "pull", ref+":three")
	docker.run("tag", ref+":two", ref+":three")
	docker.refused("the token of cluster does not allow to push octo/app/docker", "push", ref+":three")
}

// testPodman does the same with podman, and pushes a manifest list.
func testPodman(c guest) {
	dir, program := c.TempDir(), testneeds.Tool(c, "clients/podman")
	config := filepath.Join(dir, "containers.conf")
	// Nothing of the machine's own podman is read or locked.
	c.write(config, `[engine]
lock_type = "file"
events_logger = "none"
cgroup_manager = "cgroupfs"
tmp_dir = "`+filepath.Join(dir, "tmp")+`"
static_dir = "`+filepath.Join(dir, "static")+`"
volume_path = "`+filepath.Join(dir, "volumes")+`"
helper_binaries_dir = ["`+filepath.Join(filepath.Dir(program), "root", "usr", "lib", "podman")+`"]
conmon_path = ["`+testneeds.Tool(c, "clients/conmon")+`"]
runtime = "runc"
[engine.runtimes]
runc = ["`+filepath.Join(clustertest.Bin(c), "runc")+`"]
[network]
network_config_dir = "`+filepath.Join(dir, "networks")+`"
`)
	podman := tool{guest: c, program: program, env: []string{
		"CONTAINERS_CONF=" + config, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "auth.json"), "HOME=" + dir,
	}, args: []string{"--storage-driver=vfs", "--root=" + filepath.Join(dir, "root"), "--runroot=" + filepath.Join(dir, "run")}}
	tls := "--cert-dir=" + filepath.Dir(c.site.ca)
	login := []string{"login", tls, "--username=octo", "--password-stdin", c.site.name}
	podman.login("wrong", "invalid username/password", login...)
	podman.login(c.site.person, "", login...)

	ref := c.site.name + "/octo/app/podman"
	podman.run("load", "--input", c.archive(c.random(), ref+":one"))
	id := podman.run("image", "inspect", "--format", "{{.Id}}", ref+":one")
	podman.run("push", tls, ref+":one")
	podman.run("manifest", "create", "list", "containers-storage:"+ref+":one")
	podman.run("manifest", "push", tls, "--all", "list", "docker://"+ref+":list")
	if list := c.pushed("octo/app/podman:list"); !list.MediaType.IsIndex() {
		c.Errorf("the list is %+v", list)
	}
	podman.run("rmi", "list", ref+":one")

	podman.login(c.site.cluster, "", login...)
	podman.run("pull", tls, ref+":list")
	if got := podman.run("image", "inspect", "--format", "{{.Id}}", ref+":list"); got != id {
		c.Errorf("the image was %s and came back as %s", id, got)
	}
	podman.run("tag", ref+":list", ref+":two")
	podman.refused("the token of cluster does not allow to push octo/app/podman", "push", tls, ref+":two")
	podman.run("logout", c.site.name)
	podman.refused("log in to pull octo/app/podman", "pull", tls, ref+":one")
	c.write(filepath.Join(dir, "auth.json"), c.identity(c.site.name, c.site.cluster))
	podman.run("pull", tls, ref+":one")
	c.site.seen.want(c.T, `^POST /v2/token 200 containers/`)
}

// testRegctl copies and tags, attaches an artifact to an image, and deletes.
func testRegctl(c guest) {
	dir := c.TempDir()
	regctl := tool{guest: c, program: testneeds.Tool(c, "clients/regctl"), env: []string{"REGCTL_CONFIG=" + filepath.Join(dir, "config.json"), "HOME=" + dir}}
	ca, err := os.ReadFile(c.site.ca)
	if err != nil {
		c.Fatal(err)
	}
	regctl.run("registry", "set", "--cacert", string(ca), c.site.name)
	login := []string{"registry", "login", "--user=octo", "--pass-stdin", c.site.name}
	regctl.login("wrong", "unauthorized", login...)
	regctl.login(c.site.person, "", login...)

	ref := c.site.name + "/octo/app/regctl"
	image := c.random()
	c.push("octo/app/regctl:one", image)
	regctl.run("image", "copy", ref+":one", ref+":two")
	regctl.run("image", "copy", ref+":one", ref+"/copy:one")
	c.site.seen.want(c.T, `^POST /v2/octo/app/regctl/copy/blobs/uploads/\?.*mount=sha256.* 201 regclient/`)
	sbom := filepath.Join(dir, "sbom")
	c.write(sbom, "a list of parts")
	regctl.run("artifact", "put", "--artifact-type=application/x-sbom", "--subject="+ref+":one", "--file="+sbom)
	if got := regctl.run("artifact", "list", "--format={{range .Descriptors}}{{.ArtifactType}}{{end}}", ref+":one"); got != "application/x-sbom" {
		c.Errorf("the referrers are %q", got)
	}
	if got := regctl.run("artifact", "get", "--subject="+ref+":two"); got != "a list of parts" {
		c.Errorf("the artifact is %q", got)
	}
	regctl.run("tag", "delete", ref+":one")
	c.site.seen.want(c.T, `^DELETE /v2/octo/app/regctl/manifests/one 202 regclient/`)
	if got := regctl.run("tag", "ls", ref); got != "two" {
		c.Errorf("the tags are %q", got)
	}
	digest, err := image.Digest()
	if err != nil {
		c.Fatal(err)
	}
	if got := regctl.run("image", "digest", ref+":two"); got != digest.String() {
		c.Errorf("the image was %s and is %s", digest, got)
	}

	regctl.run("registry", "logout", c.site.name)
	regctl.refused("unauthorized", "tag", "ls", ref)
	regctl.login(c.site.cluster, "", login...)
	regctl.run("image", "export", ref+":two", filepath.Join(dir, "image.tar"))
	regctl.refused("unauthorized", "image", "copy", ref+":two", ref+":three")
	regctl.refused("unauthorized", "tag", "delete", ref+":two")
}

// testContainerd pulls and pushes by containerd, with its own ways to log in.
func testContainerd(c guest, socket string) {
	dir := c.TempDir()
	ctr := tool{guest: c, program: filepath.Join(clustertest.Bin(c), "ctr"), args: []string{"--address", socket, "--namespace", "test"}}
	// hosts writes a folder such as /etc/containerd/certs.d, as the docs say.
	hosts := func(name, token string) string {
		c.Helper()
		root := filepath.Join(dir, name)
		folder := filepath.Join(root, c.site.name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			c.Fatal(err)
		}
		server := "https://" + c.site.name
		text := fmt.Sprintf("server = %q\nca = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = %q\n", server, c.site.ca, server, c.site.ca)
		if token != "" {
			text += fmt.Sprintf("  [host.%q.header]\n    Authorization = \"Bearer %s\"\n", server, token)
		}
		c.write(filepath.Join(folder, "hosts.toml"), text)
		return "--hosts-dir=" + root
	}
	ref := c.site.name + "/octo/app/containerd:one"
	plain, cluster := hosts("plain", ""), hosts("cluster", c.site.cluster)
	octo := func(token string) string { return "--user=octo:" + token }
	pull := func(args ...string) {
		c.Helper()
		ctr.run(append(append([]string{"images", "pull"}, args...), ref)...)
		ctr.run("images", "rm", "--sync", ref)
	}

	ctr.run("images", "import", "--no-unpack", c.archive(c.random(), ref))
	ctr.refused("push access denied", "images", "push", plain, ref)
	ctr.refused("401 Unauthorized", "images", "push", plain, octo("wrong"), ref)
	ctr.refused("push access denied", "images", "push", plain, octo(c.site.cluster), ref)
	ctr.refused("403 Forbidden", "images", "push", cluster, ref)
	ctr.run("images", "push", plain, octo(c.site.person), ref)
	ctr.run("images", "rm", "--sync", ref)

	ctr.refused("pull access denied", "images", "pull", plain, ref)
	pull(cluster)
	pull(plain, octo(c.site.cluster))
	pull("--local", "--snapshotter=native", cluster)
	pull("--local", "--snapshotter=native", plain, octo(c.site.cluster))
	pull(plain, "--refresh="+c.site.cluster)
	ctr.run("content", "fetch", cluster, ref)
	ctr.run("images", "rm", "--sync", ref)
	ctr.run("content", "fetch", plain, octo(c.site.cluster), ref)
	ctr.refused("pull access denied", "content", "fetch", plain, ref)
}
