// Run by the user's own node, with the path of an ecosystem file: evaluates the file and answers on descriptor 0,
// where nothing that the file prints can come between. See evaluate.rs.
const DEEPEST = 64
const MOST = 100000
const file = process.argv[1]
const left = []
let values = 0

class Refusal extends Error {}

function answer(said) {
  const bytes = Buffer.from(JSON.stringify(said) + '\n')
  for (let at = 0; at < bytes.length; ) at += require('fs').writeSync(0, bytes, at)
  process.exit(0)
}

const quoted = text => JSON.stringify(Buffer.from(text).toString())

// JSON of a value; nothing for what has no place in a file. Written here since JSON.stringify drops functions
// silently, and names no path where it gives up.
function json(value, path, above) {
  if (++values > MOST) throw new Refusal('too many values')
  if (value === null) return 'null'
  if (typeof value === 'string') return quoted(value)
  if (typeof value === 'number' || typeof value === 'bigint') return /^-?\d/.test(String(value)) ? String(value) : quoted(String(value))
  if (typeof value === 'boolean') return String(value)
  if (typeof value === 'undefined') return undefined
  if (typeof value !== 'object') return void left.push({ path, what: `a ${typeof value} is not a valid value, ignored` })
  if (typeof value.toJSON === 'function') return json(value.toJSON(), path, above)
  if (above.includes(value)) throw new Refusal(`${path || 'the exported value'} contains itself`)
  if (above.length >= DEEPEST) throw new Refusal('nesting too deep')
  const inside = [...above, value]
  if (Array.isArray(value)) {
    return '[' + Array.from(value, (item, at) => json(item, `${path}[${at}]`, inside) || 'null').join(',') + ']'
  }
  const pairs = []
  for (const key of Object.keys(value)) {
    const text = json(value[key], path ? `${path}.${key}` : key, inside)
    if (text !== undefined) pairs.push(`${quoted(key)}:${text}`)
  }
  return '{' + pairs.join(',') + '}'
}

const holdsApps = value =>
  value !== null && typeof value === 'object' && (Array.isArray(value) || 'apps' in value || 'pm2' in value || 'script' in value)

// What the file means to export: module.exports, a default export, or what a compiler of ES modules made of one.
function exported(module) {
  let value = module
  for (let depth = 0; depth < 3; depth++) {
    const inner = value === null || value === undefined ? undefined : value.default
    if (inner === undefined || (holdsApps(value) && !holdsApps(inner))) break
    value = inner
  }
  return value
}

function failure(error) {
  if (error instanceof Refusal) return { failure: { message: error.message } }
  const stack = String((error && error.stack) || '')
  const name = file.slice(file.lastIndexOf('/')).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const place = new RegExp(`${name}:(\\d+)(?::(\\d+))?`).exec(stack)
  const message = String((error && error.message) || error)
  const kind = error instanceof Error ? `${error.name}: ` : 'uncaught exception: '
  return { failure: { message: kind + message, line: place && Number(place[1]), column: place && Number(place[2] || 1) } }
}

process.argv = [process.argv[0], file]
// Whoever asked is gone by then, or ends this itself.
setTimeout(() => process.exit(1), 10000).unref()
process.on('uncaughtException', error => answer(failure(error)))
import(require('url').pathToFileURL(file).href)
  .then(async module => {
    const value = await exported(module)
    if (typeof value === 'function') throw new Refusal('exports a function instead of an object')
    const text = json(value, '', [])
    answer({ value: { json: text === undefined ? 'null' : text, left } })
  })
  .catch(error => answer(failure(error)))
