package link

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	cookie "github.com/sallyport/sallyport/internal/session"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// cookiesFile holds the keys of session cookies, sealed, so that a proxy that
	// starts while the control plane is away still knows who has signed in.
	cookiesFile = "cookie-keys.sealed"
	// plainCookiesFile held them before they were sealed.
	plainCookiesFile = "cookie-keys"
	// cookiesPurpose is what they are sealed for.
	cookiesPurpose = "cookie keys"
)

// cookies has the keys of session cookies be used, and keeps them on the disk.
type cookies struct {
	*Link
	recipient *cookie.Recipient
	// wake has room for one: newest is not on the disk yet.
	wake   chan struct{}
	newest atomic.Pointer[cookie.Ring]
}

// newCookies returns nil for a proxy that wants none.
func newCookies(l *Link) (*cookies, error) {
	if l.cfg.UseCookieKeys == nil {
		return nil, nil //nolint:nilnil // documented
	}
	recipient, err := cookie.NewRecipient()
	if err != nil {
		return nil, err
	}
	return &cookies{Link: l, recipient: recipient, wake: make(chan struct{}, 1)}, nil
}

// public is the key to which keys have to be sealed; empty for none at all.
func (c *cookies) public() []byte {
	if c == nil {
		return nil
	}
	return c.recipient.Public()
}

// take has keys be used that the control plane has sealed to this process.
func (c *cookies) take(ctx context.Context, environment string, keys *proxyv1.SealedKeys) {
	if c == nil {
		return
	}
	ring, err := c.recipient.Take(environment, keys.GetSealed())
	if err != nil {
		c.log.ErrorContext(ctx, "cookie keys were refused", "environment", environment, "err", err)
		return
	}
	c.cfg.UseCookieKeys(ring)
	c.log.InfoContext(ctx, "cookie keys taken", "environment", environment, "keys", len(ring.Keys()))
	c.newest.Store(ring)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// restore has the keys be used that are on the disk, if they are of the
// environment whose snapshot is in force.
func (c *cookies) restore(ctx context.Context, d *disk) {
	if err := c.forget(d); err != nil {
		c.log.ErrorContext(ctx, "cookie keys that are not sealed were not removed", "err", err)
	}
	environment := c.policy.current.Head().Environment
	b, err := d.readSmall(cookiesFile)
	if notThere(err) || environment == "" || c.cfg.Vault == nil {
		return
	}
	var ring *cookie.Ring
	if err == nil {
		b, err = c.cfg.Vault.Unseal(cookiesPurpose, b)
	}
	if err == nil {
		ring, err = cookie.ParseRing(environment, b)
	}
	if err != nil {
		c.log.WarnContext(ctx, "cookie keys on the disk cannot be used", "environment", environment, "err", err)
		return
	}
	c.cfg.UseCookieKeys(ring)
}

// forget removes what is not to lie on the disk.
func (c *cookies) forget(d *disk) error {
	names := []string{plainCookiesFile}
	if c.cfg.Vault == nil {
		names = append(names, cookiesFile)
	}
	var errs []error
	for _, name := range names {
		if err := os.Remove(d.path(name)); err != nil && !notThere(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// run writes the newest keys to the disk until ctx ends.
func (c *cookies) run(ctx context.Context, d *disk) error {
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-again.C:
		}
		if err := c.write(d); err != nil {
			c.log.ErrorContext(ctx, "cookie keys were not written", "err", err)
			again.Reset(longestRewrite)
		}
	}
}

func (c *cookies) write(d *disk) error {
	if c.cfg.Vault == nil {
		return nil
	}
	b, err := c.newest.Load().Marshal()
	if err != nil {
		return err
	}
	return d.writeSmall(cookiesFile, c.cfg.Vault.Seal(cookiesPurpose, b))
}
