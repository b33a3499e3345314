package ci

import "strings"

// ImageName returns what a repo is called among the images of the registry: its name in lower case, because names of images have
// no capitals, and those of forges do. Two repos of a server never have the same, see store.Repos. What is the name of images
// already stays as it is.
func ImageName(name string) string {
	return strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' { // others are in no name, and databases know only these
			return c + 'a' - 'A'
		}
		return c
	}, name)
}

// ImageOwner returns the [ImageName] of the repo that a repository of images belongs to: acme/app and all below it belong to
// the repo Acme/App. It is empty if no repo can have images there.
func ImageOwner(images string) string {
	parts := strings.SplitN(images, "/", 3)
	if len(parts) < 2 {
		return ""
	}
	return ImageName(parts[0] + "/" + parts[1])
}
