// What makes the console's pages nicer where scripts run. Without them everything works too.
"use strict";

const refreshEvery = 5000;

let shownAt = new Date(); // when the sidecar said last what the page shows

let leaving = false; // browsers end requests of a page that is left
addEventListener("beforeunload", () => leaving = true);

const ended = "The console has ended. Start the command again, and open its new URL.";

function sayEnded() {
	if (!leaving) say(ended);
}

// sayStale says why what the page shows of the sidecar is not of now.
function sayStale(reason) {
	if (leaving) return;
	say(`${reason} What follows is from ${shownAt.toTimeString().slice(0, 8)}.`);
	live.classList.add("stale");
}

// refresh replaces the part of the page that shows what the sidecar says. It waits while the page is hidden,
// and while somebody selects text of it.
async function refresh(live) {
	const selection = getSelection();
	if (document.hidden || (!selection.isCollapsed && live.contains(selection.anchorNode))) return;
	let response;
	try {
		response = await fetch(live.dataset.refresh);
	} catch {
		sayStale(ended);
		return;
	}
	const page = new DOMParser().parseFromString(await response.text(), "text/html");
	const fresh = page.getElementById("live");
	if (!fresh) {
		const reason = [...page.querySelectorAll("h1, h1 + p")].map((element) => element.textContent).join(". ");
		sayStale(reason || "The page cannot be refreshed.");
		return;
	}
	say("");
	live.classList.remove("stale");
	shownAt = new Date();
	if (fresh.innerHTML === live.innerHTML) return;
	const focused = live.contains(document.activeElement) ? nameOf(document.activeElement) : "";
	live.replaceChildren(...fresh.childNodes);
	if (!focused) return;
	[...live.querySelectorAll("a, [tabindex]")].find((element) => nameOf(element) === focused)?.focus({ preventScroll: true });
}

// nameOf tells apart what can have the focus. The place would not: lists change their order.
function nameOf(element) {
	return element.getAttribute("href") ?? element.getAttribute("aria-label") ?? "";
}

// say shows a line above the part that is refreshed, or the form; an empty one removes it.
function say(text) {
	let line = document.getElementById("said");
	if (!line) {
		if (!text) return;
		line = document.createElement("p");
		line.id = "said";
		line.className = "notice notice-warn";
		line.setAttribute("role", "status");
		document.querySelector("#live, .form-page").before(line);
	}
	line.hidden = !text;
	if (line.textContent !== text) line.textContent = text;
}

const live = document.querySelector("#live[data-refresh]");
if (live) {
	setInterval(() => refresh(live), refreshEvery);
	document.addEventListener("visibilitychange", () => refresh(live));
}

// On a phone the name of the page may be beyond the end of the bar.
const current = document.querySelector('.bar [aria-current="page"]');
if (current && current.offsetLeft + current.offsetWidth > innerWidth) current.parentElement.scrollLeft = current.parentElement.scrollWidth;

// A result is read out, and is where the keyboard goes on.
document.querySelector("[data-focus]")?.focus();

// A button whose request takes long says so, and is not pressed twice.
document.addEventListener("submit", (event) => {
	const button = event.submitter;
	if (!button?.dataset.busy) return;
	if (button.getAttribute("aria-disabled") === "true") {
		event.preventDefault();
		return;
	}
	button.setAttribute("aria-disabled", "true");
	button.textContent = button.dataset.busy;
});

// The form of a dialog: what follows from it is shown while it is filled in. Secrets stay in the page until
// a button is pressed.
const form = document.querySelector("form[data-live]");
const touched = new Set();

function setUp(page) {
	for (const button of page.querySelectorAll("[data-copy]")) button.hidden = false;
	for (const button of page.querySelectorAll("[data-without-script]")) button.hidden = true;
	for (const text of page.querySelectorAll("[data-limit]")) countCharacters(text);
}

// countCharacters counts as the server does: characters, not halves of them.
function countCharacters(text) {
	const counter = document.querySelector(`[data-counter-for="${CSS.escape(text.id)}"]`);
	const count = [...text.value].length;
	counter.textContent = `${count} of ${text.dataset.limit} characters`;
	counter.classList.toggle("over", count > Number(text.dataset.limit));
}

async function post(fields) {
	for (const secret of form.querySelectorAll("input[type=password]")) fields.delete(secret.name);
	const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(fields) });
	return new DOMParser().parseFromString(await response.text(), "text/html");
}

let latest = 0;
let timer;

async function check() {
	const number = ++latest;
	const fields = new FormData(form);
	fields.set("do", "check");
	let page;
	try {
		page = await post(fields);
	} catch {
		sayEnded();
		return;
	}
	say(page.getElementById("preview") ? "" : page.querySelector("h1")?.textContent);
	if (number !== latest || !page.getElementById("preview")) return;
	document.getElementById("preview").replaceChildren(...page.getElementById("preview").childNodes);
	for (const fresh of page.querySelectorAll("#form [data-error-for]")) showErrors(fresh);
	settle(page);
	for (const fresh of page.querySelectorAll("#form [data-follows]")) document.getElementById(fresh.id)?.replaceChildren(...fresh.childNodes);
	setUp(document.getElementById("preview"));
}

// settle takes a result away that said whether the fields fit, once that is no longer so.
function settle(page) {
	const result = form.querySelector("#result[data-right]");
	const wrong = [page.getElementById("form"), form].some((where) => where.querySelector("[data-error-for]:not([hidden])")) || !document.getElementById("block");
	if (result && result.dataset.right === String(wrong)) result.remove();
}

// showErrors shows what is wrong with a field, once somebody has left it.
function showErrors(fresh) {
	const id = fresh.dataset.errorFor;
	const shown = document.querySelector(`#form [data-error-for="${CSS.escape(id)}"]`);
	if (!shown || (shown.hidden && !touched.has(id))) return;
	if (fresh.hidden && isMissing(document.getElementById(id))) return;
	shown.hidden = fresh.hidden;
	shown.replaceChildren(...fresh.childNodes);
	document.getElementById(id)?.toggleAttribute("aria-invalid", false);
	if (!fresh.hidden) document.getElementById(id)?.setAttribute("aria-invalid", "true");
}

// isMissing tells a secret that is neither typed nor kept. It does not leave the page, so that no check knows of it.
function isMissing(control) {
	return control?.type === "password" && !control.value && !control.placeholder;
}

// changeRows adds or removes a row without loading the page anew.
async function changeRows(button) {
	latest++;
	const fields = new FormData(form, button);
	let page;
	try {
		page = await post(fields);
	} catch {
		sayEnded();
		return;
	}
	const fresh = page.getElementById("form");
	if (!fresh) {
		say(page.querySelector("h1")?.textContent);
		return;
	}
	const list = button.closest("[id^=list-]").id;
	form.replaceChildren(...fresh.childNodes);
	document.getElementById("preview").replaceChildren(...page.getElementById("preview").childNodes);
	setUp(document);
	const next = fresh.dataset.added ? document.getElementById(fresh.dataset.added) : document.querySelector(`#${list} button`);
	next?.focus();
	check();
}

if (form) {
	form.addEventListener("input", (event) => {
		if (event.target.dataset.limit) countCharacters(event.target);
		if (event.target.type === "password") return;
		clearTimeout(timer);
		timer = setTimeout(check, 250);
	});
	form.addEventListener("change", (event) => {
		touched.add(event.target.name);
		clearTimeout(timer);
		timer = setTimeout(check, 0);
	});
	form.addEventListener("submit", (event) => {
		if (event.submitter?.dataset.partial === undefined) return;
		event.preventDefault();
		changeRows(event.submitter);
	});
}
setUp(document);

document.addEventListener("click", async (event) => {
	const button = event.target.closest("[data-copy]");
	if (!button) return;
	const text = document.getElementById(button.dataset.copy);
	try {
		await navigator.clipboard.writeText(text.textContent);
		button.textContent = "Copied";
	} catch {
		getSelection().selectAllChildren(text);
		button.textContent = "Selected";
	}
});
